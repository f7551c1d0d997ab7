"""A fitted model of a stack as one dataset, and back: what `save` writes and `load` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from dasknmf import NMF
from dasknmf.core.history import History, from_json
from dasknmf.core.image_grid import Coordinate, Layout
from dasknmf.errors import SourceError
from dasknmf.stacks.arrays import COMPONENT, variables
from dasknmf.store import image_grid

PASS = "pass"
_FORMAT = 1
HELD_OUT = "holdout"
_TEXTS = ("phase", "loss_at")
_FACTS = (
    "init_",
    "reconstruction_err_",
    "n_iter_",
    "n_reads_",
    "sum_of_squares_",
    "mean_row_square_",
    "feature_weight_",
)


def dataset_of(
    model: NMF, parameters: Mapping[str, Any], layout: Layout, maps: xr.DataArray, spectra: xr.DataArray
) -> xr.Dataset:
    """Factors, history and parameters of a fitted model.

    Parameters
    ----------
    model : NMF
        Fitted.
    parameters : mapping
        With which it was made.
    layout : Layout
        Of the stack that it was fitted to.
    maps, spectra : xarray.DataArray
        Of abundances and endmembers.
    """
    found = xr.Dataset({"abundance": maps, "endmember": spectra})
    found = found.assign_coords(variables(layout.coords))
    found = found.assign({name: ((PASS,), values) for name, values in _history(model.history_).items()})
    # A unit alone, of days for example, may be one of numbers.
    spans = [name for name, coord in layout.coords.items() if coord.values.dtype.kind == "m"]
    facts = {name: getattr(model, name) for name in _FACTS if hasattr(model, name)}
    found.attrs = {
        "dasknmf": _FORMAT,
        "parameters": json.dumps({name: _json(value) for name, value in parameters.items()}),
        "fit": json.dumps({name: _json(value) for name, value in facts.items()}),
        "layout": json.dumps(image_grid.described(layout)),
        **({"timedeltas": json.dumps(spans)} if spans else {}),
        "measures": json.dumps(
            [{name: _json(value) for name, value in each.measures.items()} for each in model.history_]
        ),
    }
    return found


def is_model(path: Path) -> bool:
    """Whether a dataset of a fitted model stands there; a run, which names itself alike, is none."""
    try:
        return bool(zarr.open_group(path, mode="r").attrs.get("dasknmf") == _FORMAT)
    except (OSError, ValueError):
        return False


def parts_of(found: xr.Dataset, label: str) -> tuple[dict[str, Any], dict[str, Any], Layout, History]:
    """Parameters, attributes of the fitted model, layout and history of a dataset.

    Raises
    ------
    SourceError
        If the dataset was not made of a fitted model, or is of a later version.
    """
    if found.attrs.get("dasknmf") != _FORMAT:
        raise SourceError(
            f"{label!r} holds {list(found.data_vars)} and no model of format {_FORMAT}; a model is what "
            "StackNMF.save, or to_dataset().to_zarr, has written: check the path."
        )
    parameters, facts, described = (json.loads(found.attrs[name]) for name in ("parameters", "fit", "layout"))
    spans = json.loads(found.attrs.get("timedeltas", "[]"))
    decoded = xr.decode_cf(found.coords.to_dataset()[spans], decode_timedelta=True)
    found = found.assign_coords({name: decoded.variables[name] for name in spans})
    coords = {
        str(name): Coordinate(tuple(map(str, coord.dims)), np.asarray(coord.values), dict(coord.attrs))
        for name, coord in found.coords.items()
        if name != COMPONENT
    }
    return parameters, facts, image_grid.restored(described, coords), _records(found)


def _history(history: History) -> dict[str, np.ndarray]:
    columns = history.columns()
    texts = {name: np.array([each or "" for each in columns.pop(name)], dtype=str) for name in _TEXTS}
    whole = {name: np.array(columns.pop(name)) for name in ("iteration", "bytes_read", "bytes_written")}
    floats = {name: np.array(values, dtype=np.float64) for name, values in columns.items()}
    held = [record.measures.get(HELD_OUT, np.nan) for record in history]
    hidden = {} if np.isnan(held).all() else {HELD_OUT: np.array(held, dtype=np.float64)}
    return texts | whole | floats | hidden


def _records(found: xr.Dataset) -> History:
    columns = {name: found[name].to_numpy().tolist() for name in History().columns()}
    for name in ("loss", "objective", "change"):
        columns[name] = [None if np.isnan(value) else value for value in columns[name]]
    columns["loss_at"] = [value or None for value in columns["loss_at"]]
    passes = [dict(zip(columns, one, strict=True)) for one in zip(*columns.values(), strict=True)]
    measures = json.loads(found.attrs.get("measures", "[]")) or [{}] * len(passes)
    return History(from_json(each | {"measures": own}) for each, own in zip(passes, measures, strict=True))


def _json(value: Any) -> Any:
    """A parameter or an attribute as JSON."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (type, np.dtype)):
        return np.dtype(value).name
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)
