"""Nonnegative matrix factorization on Dask and Zarr: one read of V per iteration.

`NMF` is scikit-learn's class for matrices that do not fit in memory; `open_run` reads a
checkpointed fit; `Prepared` does the preprocessing in every read,
and `moments` and `highly_variable` say which features to use. `consensus` finds what many
factorizations agree on.
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

_PLACES = {
    "Consensus": "dasknmf.selection.result",
    "Moments": "dasknmf.selection.features",
    "NMF": "dasknmf.estimator",
    "Prepared": "dasknmf.data.prepared",
    "RankSweep": "dasknmf.selection.sweep",
    "consensus": "dasknmf.selection.consensus",
    "highly_variable": "dasknmf.selection.features",
    "moments": "dasknmf.selection.features",
    "non_negative_factorization": "dasknmf.estimator",
    "open_consensus": "dasknmf.selection.consensus",
    "open_run": "dasknmf.store.run",
    "open_sweep": "dasknmf.selection.sweep",
    "rank_sweep": "dasknmf.selection.sweep",
}
"""Imported when they are asked for: that takes seconds, in which the command line hears signals already."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("dasknmf")
    elif name in _PLACES:
        value = getattr(import_module(_PLACES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
