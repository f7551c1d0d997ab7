"""Inputs: everything that V can be given as, turned into rows of panels."""

from dasknmf.inputs.anndata_store import open_anndata
from dasknmf.inputs.base import Source, Stored, grid_of, row_bytes_of, working_dtype
from dasknmf.inputs.dask_array import side_by_side
from dasknmf.inputs.names import feature_names, renamed
from dasknmf.inputs.opening import opened
from dasknmf.inputs.preparation import Preparation
from dasknmf.inputs.prepared import Prepared, steps_of
from dasknmf.inputs.sources import is_chunked, places_of, rather_transposed, source_of
from dasknmf.inputs.sparse import canonical
from dasknmf.inputs.stack import Stack, open_stack

__all__ = [
    "Preparation",
    "Prepared",
    "Source",
    "Stack",
    "Stored",
    "canonical",
    "feature_names",
    "grid_of",
    "is_chunked",
    "open_anndata",
    "open_stack",
    "opened",
    "places_of",
    "rather_transposed",
    "renamed",
    "row_bytes_of",
    "side_by_side",
    "source_of",
    "steps_of",
    "working_dtype",
]
