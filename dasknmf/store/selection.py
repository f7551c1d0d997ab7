"""What was found out about the models of a run when they had ended: kept beside them."""

from __future__ import annotations

from typing import Any

import numpy as np

from dasknmf.store import arrays, keys, records, schema
from dasknmf.store.progress import Progress
from dasknmf.store.records import Told

_PATH = "selection"
_RECORD = f"{_PATH}/record"
COLUMNS = (
    "loss",
    "explained_variance",
    "relative_error",
    "holdout",
    "holdout_std",
    "silhouette_min",
    "silhouette_mean",
    "instability",
    "dispersion",
    "cophenetic",
)
"""Of what a sweep tells of each rank, in their order."""
_OF_SPECTRA = ("density", "kept", "labels")


def write(store: Any, content: dict[str, Any], values: dict[str, np.ndarray], passes: int) -> None:
    """Keep JSON values, and arrays by name, of the run after so many passes."""
    keys.delete(store, _RECORD)  # first: it vouches for arrays that go now
    keys.delete(store, _PATH)
    dtypes = {}
    for name, array in values.items():
        dtypes[name] = str(array.dtype)
        arrays.write(store, f"{_PATH}/{name}", array)
    # The record comes last: it vouches for the arrays.
    records.write(store, _RECORD, {"content": content, "arrays": dtypes, "passes": passes})


def concluded(store: Any, progress: Progress) -> bool:
    """Whether the conclusion of the run is what followed from it, and not from an earlier one."""
    record = records.read(store, _RECORD, schema.FINDINGS)
    return record is not None and _concludes(progress, record["passes"])


def _concludes(progress: Progress, passes: int) -> bool:
    return progress.conclusion is not None and int(progress.conclusion.state.split("-")[0]) == passes


def read(store: Any, progress: Progress, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Both, by name; None where there is nothing, or models have moved since.

    Raises
    ------
    RunDamagedError
        If it is not as it was written.
    """
    record = records.read(store, _RECORD, schema.FINDINGS)
    if record is None or progress.outcome is None:
        return None
    # A conclusion is a pass of its own, which moves no model.
    if record["passes"] != progress.passes and not _concludes(progress, record["passes"]):
        return None
    found = Told(f"the record {_RECORD!r} of the run at {str(store)!r}", record["content"])
    for name, dtype in record["arrays"].items():
        values = arrays.read(store, f"{_PATH}/{name}")
        if values.dtype != dtype:
            raise records.damaged(store, _RECORD, f"{name!r} is of {values.dtype}, and said to be of {dtype}")
        found[name] = values
    _check(store, found, identity.get("many", {}))
    return found


def _check(store: Any, found: dict[str, Any], many: dict[str, Any]) -> None:
    """Refuse what does not go together: a column has a value for each rank, a spectrum a label.

    Raises
    ------
    RunDamagedError
    """
    ranks = many.get("ranks", [])
    wrong = [name for name, value in found.items() if name in COLUMNS and np.shape(value) != (len(ranks),)]
    if "best" in found and found["best"] not in ranks:
        wrong.append("best")
    if "labels" in found:
        n_components, n_spectra = found["n_components"], len(found["stack"])
        wrong += [name for name in _OF_SPECTRA if found[name].shape != (n_spectra,)]
        wrong += [name for name in ("spectra", "components") if len(found[name]) != n_components]
        labels = found["labels"]
        if labels.dtype.kind != "i" or labels.min(initial=0) < -1 or labels.max(initial=0) >= n_components:
            wrong.append("labels")
    if wrong:
        raise records.damaged(store, _RECORD, f"{wrong[0]!r} is not of {len(ranks)} ranks, or these spectra")
