"""The genes that mark a program."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dasknmf import NMF
from dasknmf.singlecell.entries import Keys, component_names
from dasknmf.store.run import Run

if TYPE_CHECKING:
    import pandas as pd


def top_genes(source: Any, n: int = 20, *, key: str | None = None) -> pd.DataFrame:
    """The genes with the largest loadings in each component.

    Parameters
    ----------
    source : Run, NMF, AnnData, or the path of a run
    n : int, default=20
    key : str, optional
        The `key_added` of the entries of an AnnData.

    Returns
    -------
    DataFrame of shape (n_components, n)
        Names, the largest loading first; rows ``nmf0``, …; columns 1 to n. Empty where a component has fewer
        genes above zero. Loadings are in the units of what was factorized: with ``scale=True`` those of
        genes that vary much and little can be compared.

    Raises
    ------
    ValueError
        If the genes have no names.
    """
    import pandas as pd

    table = leading_genes(source, n, key=key)
    return pd.DataFrame(table, index=component_names(len(table)), columns=range(1, table.shape[1] + 1))


def leading_genes(source: Any, n: int = 20, *, key: str | None = None) -> np.ndarray:
    """The array of str behind `top_genes`, shape (n_components, n), which needs no pandas."""
    if n < 1:
        raise ValueError(f"n is {n}; a table needs one gene or more for each component: give at least 1.")
    H, names = _loadings(source, key)
    order = np.argsort(-H, axis=1, kind="stable")[:, :n]
    return np.where(np.take_along_axis(H, order, axis=1) > 0, names[order], "")


def _loadings(source: Any, key: str | None) -> tuple[np.ndarray, np.ndarray]:
    if hasattr(source, "varm"):
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
