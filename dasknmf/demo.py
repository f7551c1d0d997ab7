"""The demonstration: a hyperspectral scene from a package, as a Zarr array, and its abundance maps."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from dasknmf.errors import SourceError


def stored_scene(directory: Path) -> tuple[Path, tuple[int, int]]:
    """Write Indian Pines (145 x 145 pixels, 200 bands) as V, pixels by bands.

    Returns
    -------
    path : Path
        Of the Zarr array.
    shape : tuple of int
        Rows and columns of the scene.

    Raises
    ------
    SourceError
        If the package that ships the scene is not installed.
    """
    try:
        file = files("tensorly.datasets") / "data" / "Indian_pines_corrected.npy"
        scene = np.load(str(file))
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise SourceError(
            f"the scene is not here ({error}); the demo takes it from the package tensorly: "
            "pip install 'dasknmf[demo]'."
        ) from error
    rows, columns, bands = scene.shape
    V = scene.reshape(rows * columns, bands)
    path = directory / "indian_pines.zarr"
    array = zarr.create_array(path, shape=V.shape, chunks=(columns * 8, bands), dtype=V.dtype, overwrite=True)
    array[...] = V
    return path, (rows, columns)


def draw(run: Any, shape: tuple[int, int], path: Path) -> Path:
    """Draw the run's abundance maps to a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from dasknmf.plots import abundances

    figure = abundances(run.W.compute(), shape, run.H)
    figure.savefig(path, dpi=110)
    return path
