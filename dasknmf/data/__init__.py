"""Inputs: every kind of V, read as rows of panels."""

from dasknmf.core.blocks.canonical import canonical
from dasknmf.core.feature_names import feature_names, renamed
from dasknmf.data.anndata_file import open_anndata
from dasknmf.data.choose import is_chunked, is_sparse, opened, rather_transposed, source_of
from dasknmf.data.dask_array import side_by_side
from dasknmf.data.preparation import Preparation
from dasknmf.data.prepared import Prepared, steps_of
from dasknmf.data.source import Matrix, MatrixLike, Source, grid_of, row_bytes_of

__all__ = [
    "Matrix",
    "MatrixLike",
    "Preparation",
    "Prepared",
    "Source",
    "canonical",
    "feature_names",
    "grid_of",
    "is_chunked",
    "is_sparse",
    "open_anndata",
    "opened",
    "rather_transposed",
    "renamed",
    "row_bytes_of",
    "side_by_side",
    "source_of",
    "steps_of",
]
