"""Known rows of H from a file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import zarr

from dasknmf.core.feature_names import NamedColumns
from dasknmf.errors import SourceError
from dasknmf.io.codecs import refuse_pickles
from dasknmf.io.metered import open_node


def rows_at(path: str) -> np.ndarray | NamedColumns:
    """Rows of H from an .npy file, a .csv file, or a Zarr array.

    Parameters
    ----------
    path : str
        A CSV file has one row for each component, with or without a line and a column of names, as
        spectra.csv of an export. In a Zarr array of more than two dims, such as the endmember of a stack, all
        dims but the first are features.

    Returns
    -------
    array of shape (n_fixed, n_features)
        `NamedColumns` of a CSV file that has names, which are compared with those of V.

    Raises
    ------
    SourceError
        If the file is missing or cannot be read.
    """
    try:
        if path.endswith(".npy"):
            return np.asarray(np.load(path, allow_pickle=False))
        if path.endswith(".csv"):
            return _table(Path(path))
    except (OSError, ValueError) as error:
        raise SourceError(
            f"--fixed-components: {path!r} cannot be read as rows of H ({error}): give a table of numbers, "
            "one row for each known component, as .npy, .csv or a Zarr array."
        ) from error
    try:
        found = open_node(path)
    except SourceError as error:
        raise SourceError(f"--fixed-components: {error}") from error
    if not isinstance(found, zarr.Array) or found.ndim < 2:
        raise SourceError(
            f"--fixed-components: {path!r} is not an array of rows of H: give an .npy or .csv file, or a "
            "Zarr array of shape (components, features)."
        )
    refuse_pickles(found)
    return np.asarray(found[...]).reshape(found.shape[0], -1)


def _table(path: Path) -> np.ndarray | NamedColumns:
    with open(path, newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise ValueError("it is empty")
    # The corner of a table with names is empty in files of pandas.
    has_names = rows[0][0] == "" or not all(map(_is_number, rows[0][1:]))
    lines = rows[1:] if has_names else rows
    first = 1 if lines and (rows[0][0] == "" or not _is_number(lines[0][0])) else 0
    values = np.array([[float(value) for value in row[first:]] for row in lines])
    return NamedColumns(values, np.array(rows[0][first:], dtype=object)) if has_names else values


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
