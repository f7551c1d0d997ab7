"""Nonnegative matrix factorization on Dask and Zarr: one read of V per iteration.

`NMF` is scikit-learn's class for matrices that do not fit in memory; `open_run` reads a
checkpointed fit; `Prepared` does the preprocessing in every read,
and `moments` and `highly_variable` say which features to use. `consensus` finds what many
factorizations agree on.
"""

from importlib.metadata import version

from dasknmf.estimator import NMF
from dasknmf.features.choice import highly_variable
from dasknmf.features.moments import Moments, moments
from dasknmf.functional import non_negative_factorization
from dasknmf.inputs.prepared import Prepared
from dasknmf.selection.agreement import Consensus
from dasknmf.selection.consensus import consensus, open_consensus
from dasknmf.selection.sweep import RankSweep, open_sweep, rank_sweep
from dasknmf.store.opened_run import open_run

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
__version__ = version("dasknmf")
