"""Factors as CSV files: usages.csv, samples × components, and spectra.csv, components × features."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dasknmf.errors import RunError
from dasknmf.io.atomic import forget_the_dead
from dasknmf.io.optional import needed
from dasknmf.io.process_owner import signed
from dasknmf.singlecell.entries import component_names
from dasknmf.singlecell.export import Exported
from dasknmf.stacks.pixels import places_of, tiles_of


def write(
    directory: Path, factors: Exported, *, cells: np.ndarray | None, genes: np.ndarray, overwrite: bool
) -> None:
    """Write both tables to a new directory; an error leaves nothing behind.

    Of a stack the rows of usages.csv are pixels, told by a column for each sample dim.

    Parameters
    ----------
    cells : ndarray of str or None
        Names of the rows; None: their numbers.
    genes : ndarray of str of shape (n_features,)
        Names of the columns of H.

    Raises
    ------
    RunError
        If the directory exists and `overwrite` is not given.
    SourceError
        If pandas is not installed.
    """
    pd = needed("pandas")
    if directory.exists() and not overwrite:
        raise RunError(
            f"{str(directory)!r} exists; nothing is replaced unasked: give --overwrite, which replaces the "
            "two tables, or another directory."
        )
    columns = component_names(factors.shape[1])
    spare = directory.with_name(f".{directory.name}.{signed()}.new")
    spare.mkdir(parents=True)
    try:
        with open(spare / "usages.csv", "w", newline="") as file:
            for first, rows, index in _blocks(factors, cells, pd):
                pd.DataFrame(rows, index=index, columns=columns).to_csv(file, header=first == 0)
        pd.DataFrame(factors.H, index=columns, columns=genes).to_csv(spare / "spectra.csv")
        directory.mkdir(exist_ok=True)
        for name in ("usages.csv", "spectra.csv"):
            (spare / name).replace(directory / name)
        forget_the_dead(directory.parent, f".{directory.name}.")
    finally:
        shutil.rmtree(spare, ignore_errors=True)


def _blocks(factors: Exported, cells: np.ndarray | None, pd: Any) -> Iterator[tuple[int, np.ndarray, Any]]:
    """The first row of each block, the block, and the names of its rows."""
    layout = factors.run.layout
    if layout is not None and cells is None:
        for tile, rows in tiles_of(factors.run.W, layout):
            index = pd.MultiIndex.from_arrays(places_of(tile, layout), names=layout.sample_dims)
            yield tile.start, rows, index
        return
    for first, rows in factors.blocks():
        last = first + len(rows)
        yield first, rows, np.arange(first, last) if cells is None else cells[first:last]
