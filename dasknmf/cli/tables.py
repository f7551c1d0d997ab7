"""Factors as CSV files: usages.csv, samples × components, and spectra.csv, components × features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dasknmf.core.image_grid import with_gaps
from dasknmf.io.atomic import Directory, put, refuse_existing
from dasknmf.io.optional import needed
from dasknmf.io.process_owner import signed
from dasknmf.singlecell.entries import component_names
from dasknmf.singlecell.export import Exported
from dasknmf.stacks.pixels import places_of, tiles_of

_TABLES = ("usages.csv", "spectra.csv")


def write_tables(
    directory: Path, factors: Exported, *, cells: np.ndarray | None, genes: np.ndarray, overwrite: bool
) -> None:
    """Write both tables to a directory, or none of them.

    For a stack, rows of usages.csv are pixels, with a column for each sample dim.

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
    if not overwrite:
        refuse_existing(directory)
    columns = component_names(factors.shape[1])
    prefix = f".{directory.name}."
    target = Directory(directory, directory.with_name(f"{prefix}{signed()}.new"))

    def fill() -> None:
        new = Path(target.new)
        new.mkdir(parents=True)
        with open(new / "usages.csv", "w", newline="") as file:
            for first, rows, index in _blocks(factors, cells, pd):
                pd.DataFrame(rows, index=index, columns=columns).to_csv(file, header=first == 0)
        pd.DataFrame(factors.H, index=columns, columns=genes).to_csv(new / "spectra.csv")

    put(_TABLES, target, fill)
    target.forget(prefix, _TABLES)


def _blocks(factors: Exported, cells: np.ndarray | None, pd: Any) -> Iterator[tuple[int, np.ndarray, Any]]:
    """The first row of each block, the block, and the names of its rows."""
    layout = factors.run.layout
    if layout is not None and cells is None:
        for tile, rows in tiles_of(factors.run.rows, layout):
            index = pd.MultiIndex.from_arrays(places_of(tile, layout), names=layout.sample_dims)
            yield tile.start, with_gaps(rows, 0) if factors.run.n_unobserved_samples else rows, index
        return
    for first, rows in factors.blocks():
        last = first + len(rows)
        yield first, rows, np.arange(first, last) if cells is None else cells[first:last]
