"""A fitted model of a stack as one dataset."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from dasknmf import NMF
from dasknmf.core.history import History
from dasknmf.core.image_grid import Layout
from dasknmf.stacks.arrays import variables
from dasknmf.stacks.checks import json_value

PASS = "pass"
_FORMAT = 1
HELD_OUT = "holdout"
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
        The fitted model.
    parameters : mapping
        Its parameters by name.
    layout : Layout
        The layout of the stack that the model was fitted to.
    maps, spectra : xarray.DataArray
        Abundances and endmembers.
    """
    found = xr.Dataset({"abundance": maps, "endmember": spectra})
    found = found.assign_coords(variables(layout.coords))
    found = found.assign({name: ((PASS,), values) for name, values in _history(model.history_).items()})
    facts = {name: getattr(model, name) for name in _FACTS if hasattr(model, name)}
    found.attrs = {
        "dasknmf": _FORMAT,
        "parameters": json.dumps({name: json_value(value) for name, value in parameters.items()}),
        "fit": json.dumps({name: json_value(value) for name, value in facts.items()}),
    }
    return found


def is_model(path: Path) -> bool:
    """Whether there is a dataset of a fitted model at the path; a run has another format number."""
    try:
        return bool(zarr.open_group(path, mode="r").attrs.get("dasknmf") == _FORMAT)
    except (OSError, ValueError):
        return False


def _history(history: History) -> dict[str, np.ndarray]:
    columns = {
        name: values.astype(str) if values.dtype == object else values
        for name, values in history.arrays().items()
    }
    held = np.array([np.nan if record.holdout is None else record.holdout for record in history])
    return columns if np.isnan(held).all() else {**columns, HELD_OUT: held}
