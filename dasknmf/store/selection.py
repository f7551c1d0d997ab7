"""Findings about the models of a run that have ended: a record and arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from msgspec.structs import asdict
from zarr.abc.store import Store

from dasknmf.store import arrays, keys, records
from dasknmf.store.progress import Progress
from dasknmf.store.schema import Findings, FindingsRecord, Identity

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
"""Columns of the table of ranks of a sweep, in their order."""
_OF_SWEEP = ("rule", "best", "n_asked")
_OF_SPECTRA = ("density", "kept", "labels")
_OF_CONSENSUS = (
    "n_components",
    "n_init",
    "n_reads",
    "silhouette",
    "consensus_loss",
    "density_threshold",
    "local_neighborhood_size",
    "n_asked",
    "spectra",
    "components",
    "stack",
    *_OF_SPECTRA,
)


def write_findings(store: Store, content: dict[str, Any], values: dict[str, np.ndarray], passes: int) -> None:
    """Write the findings after `passes` passes: JSON values, and arrays by name."""
    keys.delete(store, _RECORD)  # first: its presence means that the arrays are complete
    keys.delete(store, _PATH)
    dtypes = {}
    for name, array in values.items():
        dtypes[name] = str(array.dtype)
        arrays.write_array(store, f"{_PATH}/{name}", array)
    # The record is written last: its presence means that the arrays are complete.
    records.write_record(store, _RECORD, FindingsRecord(Findings(**content), dtypes, passes))


def concluded(store: Store, progress: Progress) -> bool:
    """Whether the conclusion of the run was made from the findings in the store."""
    record = records.read_record(store, _RECORD, FindingsRecord)
    return record is not None and _concludes(progress, record.passes)


def _concludes(progress: Progress, passes: int) -> bool:
    return progress.conclusion is not None and int(progress.conclusion.state.split("-")[0]) == passes


def read_findings(store: Store, progress: Progress, identity: Identity) -> dict[str, Any] | None:
    """The findings by name; None if there are none, or models were updated later.

    Raises
    ------
    RunDamagedError
        If the record or an array is altered.
    """
    record = records.read_record(store, _RECORD, FindingsRecord)
    if record is None or progress.outcome is None:
        return None
    # A conclusion is a separate pass, which updates no model.
    if record.passes != progress.passes and not _concludes(progress, record.passes):
        return None
    found = {name: value for name, value in asdict(record.content).items() if value is not None}
    for name, dtype in record.arrays.items():
        values = arrays.read_array(store, f"{_PATH}/{name}")
        if values.dtype != dtype:
            raise records.damaged(store, _RECORD, f"{name!r} is of {values.dtype}, and said to be of {dtype}")
        found[name] = values
    if reason := _disagreement(found, identity):
        raise records.damaged(store, _RECORD, reason)
    return found


def _disagreement(found: dict[str, Any], identity: Identity) -> str | None:
    """The reason why findings do not belong to the run, or None if they do."""
    many = identity.many
    if many is None:
        return "the run has a single model"
    needed = {*_OF_SWEEP, *COLUMNS} if many.method is not None else set()
    needed |= set(_OF_CONSENSUS) if many.consensus else set()
    if missing := sorted(needed - found.keys()):
        return f"it has no {missing[0]!r}"
    wrong = [name for name in COLUMNS if name in found and np.shape(found[name]) != (len(many.ranks),)]
    if found.get("best", many.ranks[0]) not in many.ranks:
        wrong.append("best")
    if many.consensus:
        labels, k = found["labels"], found["n_components"]
        wrong += [name for name in _OF_SPECTRA if found[name].shape != found["stack"].shape[:1]]
        wrong += [name for name in ("spectra", "components") if found[name].shape[:1] != (k,)]
        if labels.dtype.kind != "i" or labels.min(initial=0) < -1 or labels.max(initial=0) >= k:
            wrong.append("labels")
    return f"{wrong[0]!r} is not of {len(many.ranks)} ranks, or these spectra" if wrong else None
