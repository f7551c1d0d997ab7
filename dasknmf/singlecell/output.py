"""The AnnData that receives the results."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from zarr.storage import StoreLike

from dasknmf.store.place import writable

if TYPE_CHECKING:
    from anndata import AnnData


def target_of(adata: AnnData, copy: bool) -> AnnData:
    """The AnnData itself, or a copy of it.

    Raises
    ------
    ValueError
        If a copy of a backed AnnData is requested, or the AnnData is a view of a backed one.
    """
    if getattr(adata, "isbacked", False) and adata.is_view:  # another object is refused by its own message
        raise ValueError(
            f"adata is a view of {adata.n_obs} cells and {adata.n_vars} genes of an AnnData that is backed "
            "by a file, and nothing can be written into such a view: give adata.to_memory(), or "
            "adata.copy('part.h5ad'), which is backed too."
        )
    if copy and adata.isbacked:
        raise ValueError(
            "copy is True and adata is backed by a file; a copy of it would need a file of its own: leave "
            "out copy (X is not changed), or give adata.to_memory()."
        )
    return adata.copy() if copy else adata


def check_place(checkpoint: StoreLike | None) -> None:
    """Raise an error if a run cannot be written at the checkpoint, before counts are read for other ends."""
    if checkpoint is not None:
        writable(checkpoint)


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
