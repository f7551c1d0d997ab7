"""The genes with the largest loadings in each program."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
from zarr.storage import StoreLike

from dasknmf import NMF
from dasknmf.singlecell.entries import Keys, component_names
from dasknmf.store.run import Run

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Loadings: TypeAlias = "AnnData | NMF | Run | StoreLike"
"""An object or a store with loadings of genes."""


def top_genes(source: Loadings, n: int = 20, *, key: str | None = None) -> pd.DataFrame:
    """Table of the genes with the largest loadings in each component.

    Parameters
    ----------
    source : AnnData, NMF, Run, or the path, URL or Zarr store of a run
    n : int, default=20
        Number of genes.
    key : str, optional
        The `key_added` of the entries of an AnnData.

    Returns
    -------
    DataFrame of shape (n_components, n)
        Names of genes, in descending order of loading; rows ``nmf0``, …, columns 1 to n. Empty strings follow
        where a component has fewer genes with a positive loading. Loadings are in the units of the factorized
        values: with ``scale=True``, genes are compared in units of their own standard deviation.

    Raises
    ------
    ValueError
        If the genes have no names, `n` is below 1, or `varm` has no such key.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> from dasknmf.singlecell import nmf, top_genes
    >>> adata = anndata.AnnData(np.array([[4, 2, 0], [6, 3, 0], [0, 0, 5]], dtype="float32"))
    >>> adata.var_names = ["A", "B", "C"]
    >>> nmf(adata, 2, tol=1e-6)
    >>> sorted(top_genes(adata, 1)[1])
    ['A', 'C']
    """
    import pandas as pd

    table = leading_genes(source, n, key=key)
    return pd.DataFrame(table, index=component_names(len(table)), columns=range(1, table.shape[1] + 1))


def leading_genes(source: Loadings, n: int = 20, *, key: str | None = None) -> np.ndarray:
    """The array of str behind `top_genes`, shape (n_components, n), which needs no pandas."""
    if n < 1:
        raise ValueError(f"n is {n}; the table lists n genes for each component: give at least 1.")
    H, names = _loadings(source, key)
    order = np.argsort(-H, axis=1, kind="stable")[:, :n]
    return np.where(np.take_along_axis(H, order, axis=1) > 0, names[order], "")


def _loadings(source: Loadings, key: str | None) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(source, "varm"):
        source = cast("AnnData", source)
        where = Keys.named(key).varm
        if where not in source.varm:
            raise ValueError(
                f"varm has no {where!r}, only {sorted(source.varm)}: call nmf(adata, ...) first."
            )
        return np.asarray(source.varm[where]).T, np.asarray(source.var_names, dtype=object)
    if isinstance(source, NMF):
        H, names = source.components_, getattr(source, "feature_names_in_", None)
    else:
        run = source if isinstance(source, Run) else Run(source)
        H, names = run.H, run.feature_names
    if names is None:
        raise ValueError(
            f"the {H.shape[1]} features have no names; tables of genes need them: fit an AnnData, or "
            "Prepared(X, feature_names=...)."
        )
    return H, names
