"""Nonnegative matrix factorization on Dask and Zarr: one read of V per iteration.

`NMF` is scikit-learn's class for matrices that do not fit in memory; `open_run` reads a
checkpointed fit.
"""

from importlib.metadata import version

from dasknmf.estimator import NMF
from dasknmf.functional import non_negative_factorization
from dasknmf.store.opened_run import open_run

__all__ = ["NMF", "non_negative_factorization", "open_run"]
__version__ = version("dasknmf")
