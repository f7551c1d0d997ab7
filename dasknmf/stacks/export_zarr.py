"""Export to a Zarr store for xarray: the run of a stack, or the maps of another scene."""

from __future__ import annotations

import warnings
from pathlib import Path

import xarray as xr

from dasknmf.io.atomic import placed
from dasknmf.stacks.dataset import is_model
from dasknmf.stacks.model import StackNMF
from dasknmf.store.run import Run


def write_run(run: Run, path: Path, *, overwrite: bool) -> None:
    """Write maps, spectra, history and parameters of a run.

    Raises
    ------
    RunMismatchError
        If the run is that of a plain matrix.
    RunError
        If there is something else at the path, or an export and `overwrite` is False.
    """
    write_dataset(StackNMF.from_run(run).to_dataset(), path, overwrite=overwrite)


def write_dataset(dataset: xr.Dataset, path: Path, *, overwrite: bool = False) -> None:
    """Write a dataset to a Zarr store, in one step.

    Parameters
    ----------
    dataset : xarray.Dataset
    path : Path
    overwrite : bool
        Whether to replace an export of dasknmf at the path.
    """
    with placed(path, is_model if overwrite else None) as spare, warnings.catch_warnings():
        # Strings have no place in the text of Zarr's format 3 yet, and are written alike by all.
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification")
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        dataset.to_zarr(spare, mode="w-")
