"""The stored layout of a stack of images: dims, coordinates, names and attributes."""

from __future__ import annotations

from math import prod

import numpy as np
from msgspec.structs import asdict
from zarr.abc.store import Store

from dasknmf.core.image_grid import Coordinate, Layout, Tiles
from dasknmf.errors import RunMismatchError
from dasknmf.store import arrays, records
from dasknmf.store.schema import CoordinateRecord, Identity, LayoutRecord, StackRecord

PATH = "layout"
_MOST_TEXT_BYTES = 2**28
"""Largest size of a text coordinate, whose values all have the width of the dtype."""


def write_layout(store: Store, layout: Layout | None) -> None:
    """Write a layout, unless it is None."""
    if layout is None:
        return
    coords = {}
    for number, (name, coord) in enumerate(layout.coords.items()):
        values, inline, array = coord.values, None, None
        if values.dtype.kind == "U":
            inline = values.reshape(-1).tolist()
        else:
            array = f"{PATH}/{number}"
            bits = np.ascontiguousarray(values).reshape(-1).view(f"i{values.itemsize}")
            arrays.write_array(store, array, bits)  # NaN and NaT are stored unchanged
        coords[name] = CoordinateRecord(
            coord.dims, values.shape, values.dtype.str, dict(coord.attrs), inline, array
        )
    # The record is written last: its presence means that the arrays are complete.
    known = layout.variables
    variables = None if known is None else {name: dict(each) for name, each in known.items()}
    stack = StackRecord(
        layout.sample_dims,
        layout.tiles.lengths,
        layout.feature_dims,
        layout.feature_shape,
        layout.dims,
        layout.name,
        dict(layout.attrs),
        variables,
    )
    records.write_record(store, PATH, LayoutRecord(stack, coords))


def read_layout(store: Store, identity: Identity) -> Layout | None:
    """The layout of a run; None where V was a plain matrix.

    Raises
    ------
    RunDamagedError
        If the layout is missing or altered.
    """
    if identity.layout is None:
        return None
    found = records.needed_record(store, PATH, LayoutRecord)
    try:
        coords = {
            name: Coordinate(kept.dims, _values(store, kept), kept.attrs)
            for name, kept in found.coords.items()
        }
    except ValueError as error:
        raise records.damaged(store, PATH, str(error)) from error
    stack = asdict(found.layout)
    layout = Layout(**stack | {"tiles": Tiles(found.layout.tiles), "coords": coords})
    if (layout.n_samples, layout.n_features) != identity.shape:
        of = f"{layout.n_samples} x {layout.n_features}"
        raise records.damaged(store, PATH, f"it is of {of} values, and V has the shape {identity.shape}")
    return layout


def _values(store: Store, kept: CoordinateRecord) -> np.ndarray:
    dtype, shape = np.dtype(kept.dtype), kept.shape
    if kept.array is not None:
        values = arrays.read_array(store, kept.array)
        if values.dtype != f"i{dtype.itemsize}" or values.shape != (prod(shape),):
            raise ValueError(
                f"{kept.array} is of {values.dtype}, shape {values.shape}, for {shape} of {dtype}"
            )
        return values.view(dtype).reshape(shape)
    assert kept.values is not None
    if dtype.itemsize * len(kept.values) > _MOST_TEXT_BYTES:
        raise ValueError(f"dtype is {kept.dtype!r}; text has at most {_MOST_TEXT_BYTES} bytes in all")
    return np.array(kept.values, dtype).reshape(shape)


def check(store: Store, identity: Identity, layout: Layout | None) -> None:
    """Raise an error if rows or columns have another order than in the run, as with tiles of other shapes.

    Raises
    ------
    RunMismatchError
    """
    stored = read_layout(store, identity)
    if stored is None or layout is None:
        return
    # The identity holds names and lengths, which are the same in any order.
    dims = [(list(each.sample_dims), list(each.feature_dims)) for each in (stored, layout)]
    if dims[0] != dims[1]:
        raise RunMismatchError(
            f"the run at {str(store)!r} has its rows along {dims[0][0]} and its columns along {dims[0][1]}, "
            f"and the stack now has them along {dims[1][0]} and {dims[1][1]}: give sample_dims= and the dims "
            "of the stack in their former order, choose another checkpoint, or start over with "
            "overwrite=True."
        )
    was, now = stored.tiles, layout.tiles
    if was == now or (was.in_order and now.in_order):
        return
    raise RunMismatchError(
        f"the run at {str(store)!r} has its rows in {_counted(was)} tiles, the largest of {_largest(was)} "
        f"pixels, and the stack is now cut into {_counted(now)}, the largest of {_largest(now)}: give the "
        "stack with its former chunks, choose another checkpoint, or start over with overwrite=True."
    )


def _counted(tiles: Tiles) -> str:
    return " x ".join(str(len(each)) for each in tiles.lengths)


def _largest(tiles: Tiles) -> str:
    return " x ".join(str(max(each)) for each in tiles.lengths)
