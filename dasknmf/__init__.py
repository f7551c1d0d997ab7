"""Nonnegative matrix factorization on Dask and Zarr: one read of V per iteration.

`NMF` follows scikit-learn's class, for matrices that do not fit in memory; `open_run` opens a checkpointed
fit. `Prepared` normalizes a matrix whenever it is read; `moments` and `highly_variable` choose features.
`rank_sweep` chooses the number of components, `consensus` finds the components that many
factorizations share.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dasknmf.data.prepared import Prepared
    from dasknmf.estimator import NMF, non_negative_factorization
    from dasknmf.selection.consensus import consensus, open_consensus
    from dasknmf.selection.features import Moments, highly_variable, moments
    from dasknmf.selection.result import Consensus
    from dasknmf.selection.sweep import RankSweep, open_sweep, rank_sweep
    from dasknmf.store.run import open_run

    __version__: str

__all__ = [
    "NMF",
    "Consensus",
    "Moments",
    "Prepared",
    "RankSweep",
    "consensus",
    "highly_variable",
    "moments",
    "non_negative_factorization",
    "open_consensus",
    "open_run",
    "open_sweep",
    "rank_sweep",
]

_NAMES = {
    "data.prepared": ["Prepared"],
    "estimator": ["NMF", "non_negative_factorization"],
    "selection.consensus": ["consensus", "open_consensus"],
    "selection.features": ["Moments", "highly_variable", "moments"],
    "selection.result": ["Consensus"],
    "selection.sweep": ["RankSweep", "open_sweep", "rank_sweep"],
    "store.run": ["open_run"],
}
_MODULES = {name: f"dasknmf.{module}" for module, names in _NAMES.items() for name in names}
"""Module of each public name. Imports take seconds and wait for the first use: the command line must handle
signals before them."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("dasknmf")
    elif name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
