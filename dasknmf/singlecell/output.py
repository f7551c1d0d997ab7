"""The AnnData that receives the results."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData


def target_of(adata: AnnData, copy: bool) -> AnnData:
    """The AnnData itself, or a copy of it.

    Raises
    ------
    ValueError
        If a copy of a backed AnnData is requested.
    """
    if copy and adata.isbacked:
        raise ValueError(
            "copy is True and adata is backed by a file; a copy of it would need a file of its own: leave "
            "copy out, X is not changed, or give adata.to_memory()."
        )
    return adata.copy() if copy else adata


def warn_of_zeros(W: np.ndarray, H: np.ndarray, key: str) -> None:
    """Warn of rows of W and columns of H that are zero: one warning for all."""
    cells, genes = int((W.max(axis=1) == 0).sum()), int((H.max(axis=0) == 0).sum())
    parts = []
    if cells:
        parts.append(f"{cells} of {len(W)} cells have no counts in genes of any component")
    if genes:
        parts.append(f"{genes} of {H.shape[1]} genes are in no component, never seen or explained by none")
    if parts:
        warnings.warn(
            f"{'; '.join(parts)}: they are kept, their rows of obsm[{key!r}] and of varm are zero.",
            UserWarning,
            stacklevel=3,
        )
