"""The AnnData that is written into."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData


def target_of(adata: AnnData, copy: bool) -> AnnData:
    """The AnnData itself, or a copy of it.

    Raises
    ------
    ValueError
        If a copy is asked for of one that is backed by a file.
    """
    if copy and adata.isbacked:
        raise ValueError(
            "copy is True and adata is backed by a file; a copy of it would need a file of its own: leave "
            "copy out, X is not changed, or give adata.to_memory()."
        )
    return adata.copy() if copy else adata


def in_memory(W: Any) -> np.ndarray:
    """W as it stands in obsm."""
    return np.asarray(W.compute() if isinstance(W, da.Array) else W)


def tell_empty(W: np.ndarray, H: np.ndarray, key: str) -> None:
    """One warning for all rows of W and columns of H that are zero."""
    cells, genes = int((W.max(axis=1) == 0).sum()), int((H.max(axis=0) == 0).sum())
    said = []
    if cells:
        said.append(f"{cells} of {len(W)} cells have no counts in genes of any component")
    if genes:
        said.append(f"{genes} of {H.shape[1]} genes are in no component, never seen or explained by none")
    if said:
        warnings.warn(
            f"{'; '.join(said)}: they are kept, their rows of obsm[{key!r}] and of varm are zero.",
            UserWarning,
            stacklevel=3,
        )
