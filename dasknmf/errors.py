"""Exceptions, grouped by the remedy.

::

    DaskNMFError
    ├── DataError (ValueError)         correct the data, or give missing_values, weights or columns
    ├── SourceError (ValueError)       give a source that can be opened and read
    ├── NumericalError (ArithmeticError)  rescale V, or work in float64
    ├── MemoryLimitError (MemoryError) give more memory, or fewer components
    ├── StageError (OSError)           make room on the stage's disk, or give no stage
    ├── SchedulerError (RuntimeError)  give a scheduler or a store that every worker reaches
    ├── UnavailableError (RuntimeError)  repeat the same call later
    └── RunError (RuntimeError)        see the subclasses
        ├── RunMismatchError           repeat the arguments, or overwrite the run
        ├── RunLockedError             wait for the other process, or stop it
        ├── RunAccessError             make room or give permission, and start again
        ├── RunDamagedError            restore the store from a copy, or overwrite the run
        └── DataChangedError           restore V, or overwrite the run

Bad parameter values raise scikit-learn's own ``InvalidParameterError`` or ``ValueError``.
"""

from __future__ import annotations


class DaskNMFError(Exception):
    """Root of every exception that this package defines."""


class DataError(DaskNMFError, ValueError):
    """V holds values that the model does not accept."""


class SourceError(DaskNMFError, ValueError):
    """V cannot be opened, or its layout cannot be cut into panels."""


class NumericalError(DaskNMFError, ArithmeticError):
    """A step gave values outside the range of its floating-point type."""


class MemoryLimitError(DaskNMFError, MemoryError):
    """The projected peak exceeds the memory of a worker."""


class StageError(DaskNMFError, OSError):
    """The directory of a stage cannot be written, or has no room for V."""


class SchedulerError(DaskNMFError, RuntimeError):
    """The scheduler is unknown, or its workers cannot reach the store of W and H."""


class UnavailableError(DaskNMFError, RuntimeError):
    """A scheduler, its workers or a store is out of reach."""


class RunError(DaskNMFError, RuntimeError):
    """A run store cannot be used."""


class RunMismatchError(RunError):
    """The run was started with another V or another model."""


class RunLockedError(RunError):
    """Another live process is writing this run."""


class RunAccessError(RunError):
    """The run store cannot be written or read."""


class RunDamagedError(RunError):
    """A record or a factor of the run is missing, truncated or altered."""


class DataChangedError(RunError):
    """A panel of V (a block of rows) no longer holds the values that the first pass read."""


def brief(error: BaseException | None) -> str:
    """The message of an error in one line, or else its type."""
    return " ".join(str(error).split()) or type(error).__name__
