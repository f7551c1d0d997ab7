"""Stacks of images: xarray's objects as V, one row per pixel and one column per plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import zarr

from dasknmf.core.image_grid import Coordinate, Layout, Tiles, common, merged
from dasknmf.errors import SourceError
from dasknmf.io.codecs import refuse_pickles
from dasknmf.io.metered import MeteredStore, open_node
from dasknmf.io.retry import PatientStore
from dasknmf.stacks.checks import (
    VARIABLE,
    check_dims,
    check_dtypes,
    check_unique,
    coords_of,
    described,
    described_mask,
    mask_of,
    variables_of,
    xarray_module,
)
from dasknmf.stacks.encoding import NEGATIVES, entries_of, is_plain
from dasknmf.stacks.geotiff_in import is_raster, open_raster
from dasknmf.stacks.source import TileSource, by_points, in_memory

_TILE_BYTES = 4 * 2**20
"""Stored tiles are read together up to this size."""


class Stack(TileSource):
    """A stack of images as a matrix V: a row for each pixel, a column for each combination of other dims.

    Nothing is stacked or rechunked. Rows go tile by tile over the sample dims, in raster order inside of a
    tile; a tile is one or several of the chunks that the stack has (of a dataset whose variables have
    different chunks, along the sample dims as many as it takes for all to end in the same place). What is
    drawn for a pixel (its start, whether it is in a sample, what of it is held out) goes by its place in the
    raster, so results are the same but for rounding however the stack is cut.

    Columns go through the feature dims in the order of the stack, the last one the fastest; of a dataset the
    variables come first.

    Parameters
    ----------
    obj : xarray.DataArray or xarray.Dataset
        With any order of dims and any chunks: of Dask arrays, which become part of the graph of a pass; in
        memory; or lazily indexed, as of ``open_stack(path)`` or ``xarray.open_zarr(path, chunks=None)``,
        which tasks read by themselves. A part of a lazily indexed stack should begin where a chunk begins.
        All variables of a dataset have the same dims and the same dtype.
    sample_dims : str or sequence of str
        The dims of an image.
    mask : xarray.DataArray of bool, optional
        True where V counts, as in xarray's ``where``, over any of the dims: land, or no cloud. In any
        chunks, on the coordinates of the stack where it has some.
    missing : "auto", "error", "nan" or float, default="auto"
        Which stored values stand for nothing observed: as the stack says in `_FillValue`, `missing_value`,
        `nodata` (and NaN, of floats); none; NaN; this value, before scale and offset (and NaN).
    negatives : "error", "clip" or "mask", default="error"
        What becomes of values below zero: they are refused, taken as 0, or as not observed.

    Attributes
    ----------
    layout : Layout
    entries : EntryWeights or None
        How a tile reads the stored values; None: as they are.
    shape : tuple of int
        Pixels, features.
    dtype : numpy.dtype
        As stored.
    feature_names : ndarray of str
    is_in_memory : bool

    Raises
    ------
    SourceError
        If dims, dtypes or coordinates are not those of a stack.
    ValueError
        If `missing` or `negatives` is none of these.
    """

    def __init__(
        self,
        obj: Any,
        sample_dims: str | Sequence[str] = ("y", "x"),
        mask: Any = None,
        missing: Any = "auto",
        negatives: str = "error",
    ) -> None:
        variables = variables_of(obj)
        first = next(iter(variables.values()))
        dims = tuple(first.dims)
        samples = (sample_dims,) if isinstance(sample_dims, str) else tuple(sample_dims)
        is_dataset = hasattr(obj, "data_vars")
        check_dims(variables, samples, is_dataset)
        check_dtypes(variables)
        for name, variable in variables.items():
            if by_points(variable):
                raise SourceError(
                    f"{name!r} was transposed, or indexed by arrays, after it was opened lazily; xarray then "
                    "looks up each value by itself, in many times the memory of a tile: leave its dims as "
                    "they are stored, they may have any order, or chunk it first, chunk(...).transpose(...)."
                )
        features = tuple(dim for dim in dims if dim not in samples)
        shape = tuple(int(first.sizes[dim]) for dim in features)
        if 0 in first.shape:
            raise SourceError(
                f"the stack has lengths {dict(first.sizes)}; each must be at least 1: select less."
            )
        dtype = np.dtype(first.dtype)
        self.is_in_memory = all(map(in_memory, variables.values()))
        planes = list(variables.values())
        cuts = [common([_lengths(each, dim) for each in planes]) for dim in samples]
        n_planes = int(np.prod(shape, dtype=np.int64))
        row_bytes = n_planes * len(variables) * dtype.itemsize
        coords = coords_of(obj)
        check_unique(coords, features)
        tiles = merged(cuts, row_bytes, _TILE_BYTES)
        cut_mask = None if mask is None else _cut(mask_of(mask, first.sizes, coords), samples, tiles)
        if is_dataset:
            coords[VARIABLE] = Coordinate((VARIABLE,), np.array(list(variables)))
        layout = Layout(
            samples,
            tiles,
            (VARIABLE, *features) if is_dataset else features,
            (len(variables), *shape) if is_dataset else shape,
            dims,
            coords,
            None if is_dataset or obj.name is None else str(obj.name),
            described(obj.attrs),
            {name: described(each.attrs) for name, each in variables.items()} if is_dataset else None,
        )
        super().__init__(layout, planes, cut_mask)
        self.feature_names = layout.feature_names
        self.negatives_advice = NEGATIVES
        entries = entries_of(planes, [n_planes] * len(variables), missing, negatives)
        self.entries = None if mask is None and is_plain(entries) else replace(entries, groups=_dates(layout))

    def __repr__(self) -> str:
        return f"<Stack {self.shape} {self.dtype}, {self.layout.geometry()}>"

    def described_mask(self) -> str | None:
        if not self.masked:
            return None
        order = (*self.layout.feature_dims, *self.layout.sample_dims)
        return described_mask(self._variables[-1], order, self._variables[:-1])


def _dates(layout: Layout) -> int | None:
    """How many dates there are among the features: clouds cover the bands of a date alike."""
    lengths = [
        length
        for dim, length in zip(layout.feature_dims, layout.feature_shape, strict=True)
        if dim in layout.coords and layout.coords[dim].values.dtype.kind == "M"
    ]
    return lengths[0] if lengths else None


def open_stack(path: Any, variable: str | Sequence[str] | None = None) -> Any:
    """Open a Zarr store that xarray has written, formats 2 and 3, or GeoTIFFs, to be factorized as stored.

    Values are neither read nor decoded; scale, offset and `_FillValue` stay in the attrs, where `Stack`
    finds them, and tasks read tiles by themselves.

    Parameters
    ----------
    path : str, path, zarr Store or zarr.Group; or sequence of paths
        A name that ends in .tif or .tiff is one of a GeoTIFF (``raster`` extra); several of one grid lie
        along a new dim ``time``, which the dates in their names label.
    variable : str or sequence of str, optional
        Of a Zarr store: a variable, or several; where None all, in the order of their names.

    Returns
    -------
    xarray.DataArray or xarray.Dataset
        An array of one variable, where one is asked for or the store has no other.

    Raises
    ------
    SourceError
        If nothing can be opened there, or it has no such variable.
    """
    xarray = xarray_module()
    if is_raster(path):
        if variable is not None:
            raise SourceError(f"{path!r} has bands and no variables: leave out variable={variable!r}.")
        return open_raster(path)
    if isinstance(path, (list, tuple)):
        raise SourceError(
            f"{[str(each) for each in path]} are not all GeoTIFFs; only these are put together along a new "
            "dim: give one store, or a DataArray that xarray.concat has made."
        )
    group = path if isinstance(path, zarr.Group) else open_node(path)
    if not isinstance(group, zarr.Group):
        raise SourceError(
            f"{str(path)!r} is a Zarr array without names of dims around it; a stack is a group that xarray "
            "has written: give the path of the group, and variable= for one of its arrays."
        )
    refuse_pickles(group)
    found = xarray.open_dataset(
        MeteredStore(PatientStore(group.store)),
        engine="zarr",
        group=group.path or None,
        consolidated=group.metadata.consolidated_metadata is not None,
        chunks=None,
        mask_and_scale=False,
        decode_timedelta=False,
    )
    # Some writers name the CRS in an attribute only.
    named = {each.attrs.get("grid_mapping") for each in found.data_vars.values()}
    found = found.set_coords([name for name in found.data_vars if name in named])
    # Coordinates are values and no data: they are decoded like in any other opening.
    found = found.assign_coords(xarray.decode_cf(found.coords.to_dataset(), decode_timedelta=False).coords)
    wanted = sorted(found.data_vars) if variable is None else variable  # a directory tells them in any order
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    missing = [name for name in names if name not in found.data_vars]
    if missing or not names:
        raise SourceError(
            f"{str(path)!r} has no variable {missing[0] if missing else ''!r}; its variables are "
            f"{sorted(found.data_vars)}: give one of these."
        )
    single = isinstance(wanted, str) or (variable is None and len(names) == 1)
    return found[names[0]] if single else found[names]


def _cut(mask: Any, samples: Sequence[str], tiles: Tiles) -> Any:
    """A mask whose chunks end where tiles do: tiles follow the stack alone, which is far larger."""
    if mask.chunks is None:
        return mask
    wanted = {dim: each for dim, each in zip(samples, tiles.lengths, strict=True) if dim in mask.dims}
    cut = {dim: each for dim, each in wanted.items() if common([mask.chunksizes[dim], each]) != each}
    return mask.chunk(cut) if cut else mask


def _lengths(variable: Any, dim: str) -> Sequence[int]:
    """How a variable is cut along a dim: by its Dask chunks, or as it is stored."""
    length = int(variable.sizes[dim])
    if variable.chunks is not None:
        return tuple(map(int, variable.chunksizes[dim]))
    if in_memory(variable):
        return (1,) * length
    chunk = int(variable.encoding.get("preferred_chunks", {}).get(dim, length))
    return (chunk,) * (length // chunk) + ((length % chunk,) if length % chunk else ())
