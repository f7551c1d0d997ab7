"""The entries of a factorization in an AnnData: their names and content.

obsm["X_nmf"]   W, one row per cell
varm["NMF"]     Hᵀ, one row per gene, zero for genes that were not factorized
uns["nmf"]      parameters, explained variance, loss and history, in types that .h5ad and Zarr both hold
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dasknmf.core.history import History
from dasknmf.core.losses import NAMES

_ROWS = 65_536


@dataclass(frozen=True)
class Keys:
    """The keys of the three entries."""

    obsm: str = "X_nmf"
    varm: str = "NMF"
    uns: str = "nmf"

    @classmethod
    def named(cls, key_added: str | None) -> Keys:
        """The usual keys, or one name for all three, as in scanpy's ``pca``.

        Raises
        ------
        ValueError
            If the name is not one that .h5ad and Zarr can store.
        """
        if key_added is not None and (
            not isinstance(key_added, str) or "/" in key_added or key_added in ("", ".", "..")
        ):
            raise ValueError(
                f"key_added is {key_added!r}; it names entries of obsm, varm and uns, and '/' separates "
                "names in files: give a name without it, 'nmf_k10' for example."
            )
        return cls() if key_added is None else cls(key_added, key_added, key_added)


def component_names(k: int) -> list[str]:
    """``nmf0``, ``nmf1``, …"""
    return [f"nmf{component}" for component in range(k)]


def gram(blocks: Iterable[np.ndarray], k: int) -> np.ndarray:
    """WᵀW in float64 from blocks of rows of W."""
    G = np.zeros((k, k))
    for block in blocks:
        for first in range(0, len(block), _ROWS):
            rows = block[first : first + _ROWS].astype(np.float64)
            G += rows.T @ rows
    return G


def explained(G: np.ndarray, H: np.ndarray) -> np.ndarray:
    """The sum of squares that each component explains, ⟨w_c h_c, WH⟩ = Σ_d (WᵀW)_cd (HHᵀ)_cd.

    They add up to ‖WH‖². Where H is the best for W and has no penalty, ⟨V − WH, w_c h_c⟩ = 0 for every
    component, because each entry of H or its gradient is zero: for the Frobenius loss the sums then add up to
    ‖V‖² − ‖V − WH‖², the sum of squares that the factorization explains, and each is also ⟨V, w_c h_c⟩.
    Squares are about zero, not about the mean of a gene, as the model has no mean.

    Parameters
    ----------
    G : ndarray of shape (n_components, n_components)
        WᵀW.
    H : ndarray of shape (n_components, n_features)

    Returns
    -------
    squares : ndarray of shape (n_components,), float64
    """
    H = H.astype(np.float64)
    return np.asarray((G * (H @ H.T)).sum(axis=1))


def uns_entry(
    params: dict[str, Any], history: History, G: np.ndarray, H: np.ndarray, sum_of_squares: float
) -> dict[str, Any]:
    """The entry of `uns`.

    Returns
    -------
    dict
        ``params``; ``components``, their names; ``variance`` and ``variance_ratio`` by component, see
        `explained`, the latter as shares of ‖V‖²; ``loss``, D(V | WH) as last evaluated; ``history``, one
        array per column.
    """
    squares = explained(G, H)
    known = [record.loss for record in history if record.loss is not None]
    return {
        "params": {name: plain(value) for name, value in params.items() if value is not None},
        "components": np.asarray(component_names(len(H)), dtype=object),
        "variance": squares,
        "variance_ratio": squares / sum_of_squares if sum_of_squares else np.zeros(len(H)),
        "loss": float(known[-1]),
        "history": history.arrays(),
    }


def plain(value: object) -> Any:
    """A value as a type that .h5ad and Zarr hold."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (str, bool, int, float, np.ndarray)):
        return value
    return str(value)


def run_params(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a run or a model for `uns`: the loss by its name, without W and H."""
    named = {beta: name for name, beta in NAMES.items()}
    shown = {name: value for name, value in params.items() if name not in ("W", "H")}
    beta = shown.get("beta_loss")
    if isinstance(beta, float):
        shown["beta_loss"] = named.get(beta, beta)
    return shown


def over_all_genes(H: np.ndarray, columns: np.ndarray | None, n_vars: int) -> np.ndarray:
    """Hᵀ over all genes, zero where a gene was not factorized, shape (n_vars, n_components)."""
    if columns is None:
        return np.ascontiguousarray(H.T)
    whole = np.zeros((n_vars, len(H)), H.dtype)
    whole[columns] = H.T
    return whole
