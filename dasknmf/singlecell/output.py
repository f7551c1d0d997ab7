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
            "out copy (X is not changed), or give adata.to_memory()."
        )
    return adata.copy() if copy else adata


def warn_of_zeros(W: np.ndarray, H: np.ndarray, key: str) -> None:
    """Warn of rows of W and columns of H that are zero: one warning for all."""
    cells, genes = int((W.max(axis=1) == 0).sum()), int((H.max(axis=0) == 0).sum())
    parts = []
    if cells:
        parts.append(f"cells without counts in the genes of any component: {cells} of {len(W)}")
    if genes:
        parts.append(f"genes that are in no component: {genes} of {H.shape[1]}")
    if parts:
        warnings.warn(
            f"{'; '.join(parts)}; they are kept, with zeros in obsm[{key!r}] or varm.",
            UserWarning,
            stacklevel=3,
        )
