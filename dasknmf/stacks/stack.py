"""Stacks of images: xarray's objects as V, one row per pixel and one column per plane."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import zarr
from zarr.abc.store import Store

from dasknmf.core.image_grid import Coordinate, Layout, common, merged
from dasknmf.errors import SourceError
from dasknmf.io.codecs import refuse_pickles
from dasknmf.io.metered import SourceStore, open_node
from dasknmf.io.optional import needed
from dasknmf.stacks.checks import (
    VARIABLE,
    StackLike,
    check_dims,
    check_dtypes,
    check_unique,
    coords_of,
    described,
    described_mask,
    mask_of,
    variables_of,
)
from dasknmf.stacks.encoding import NEGATIVES, Missing, entries_of, is_plain
from dasknmf.stacks.geotiff_in import RasterPath, is_read_by_gdal, open_raster
from dasknmf.stacks.places import as_files, dims_of, others_than
from dasknmf.stacks.source import TileSource, by_points, in_memory

if TYPE_CHECKING:
    from xarray import DataArray, Dataset, Variable

StackPath: TypeAlias = RasterPath | Store | zarr.Group
"""The place of a Zarr store, or of one or several GeoTIFFs."""
_DECLARED = {"_FillValue", "missing_value", "scale_factor", "add_offset", "coordinates", "grid_mapping"}
"""Attributes of a Zarr array that xarray wrote."""
_TILE_BYTES = 4 * 2**20
"""The size in bytes up to which stored tiles are read together."""


class Stack(TileSource):
    """A stack of images as a matrix V: a row for each pixel, a column for each combination of the other dims.

    The stack is neither copied nor rechunked. Rows go tile by tile over the sample dims, in raster order
    within a tile; a tile is one or several chunks of the stack. Where the variables of a dataset have
    different chunks, tiles end where the chunks of all variables end. Random numbers (starts, samples,
    held-out entries) belong to the place of a pixel in the raster, so that the chunks change results by no
    more than rounding.

    Columns go through the feature dims in the order of the stack, the last dim fastest; the variables of a
    dataset are the first of these dims.

    Parameters
    ----------
    obj : xarray.DataArray or xarray.Dataset
        Any order of dims and any chunks. In memory; of Dask arrays, whose tasks become part of each pass; or
        lazily indexed, as ``open_stack(path)`` and ``xarray.open_zarr(path, chunks=None)`` return it. A part
        of a lazily indexed stack should begin where a chunk begins. All variables of a dataset have the same
        dims and the same dtype.
    sample_dims : str or sequence of str, default=("y", "x")
        The dims of an image.
    mask : xarray.DataArray of bool, optional
        True for the values to use (land, or no cloud), as in xarray's ``where``, over any of the dims. Its
        coordinates, if it has any, are those of the stack; its chunks may differ.
    missing : {"auto", "error", "nan"} or float, default="auto"
        The stored values, before scale and offset, that mark missing entries. "auto": those in the
        attributes `_FillValue`, `missing_value` and `nodata`, and NaN; "nan": NaN; "error": none; a number:
        this value and NaN.
    negatives : {"error", "clip", "mask"}, default="error"
        The treatment of values below zero, after scale and offset: an error, replacement by 0, or exclusion
        as missing.

    Attributes
    ----------
    layout : Layout
        The places of pixels and features in V.
    entries : EntryWeights or None
        Missing values, scale and offset; None where the stored values are those of V and all count.
    shape : tuple of int
        The numbers of pixels and features.
    dtype : numpy.dtype
        The dtype of the stored values.
    feature_names : ndarray of str, of shape (n_features,)
    is_in_memory : bool

    Raises
    ------
    SourceError
        If dims, dtypes or coordinates are not those of a stack.
    ValueError
        If `missing` or `negatives` is none of these.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from dasknmf.stacks import Stack
    >>> scene = xr.DataArray(np.ones((3, 40, 60)), dims=("band", "y", "x"), coords={"band": ["b", "g", "r"]})
    >>> stack = Stack(scene)
    >>> stack.shape, stack.feature_names.tolist()
    ((2400, 3), ['b', 'g', 'r'])
    """

    def __init__(
        self,
        obj: StackLike,
        sample_dims: str | Sequence[str] = ("y", "x"),
        mask: DataArray | None = None,
        missing: Missing = "auto",
        negatives: str = "error",
    ) -> None:
        if hasattr(obj, "data_vars"):  # a scalar, such as the CRS in spatial_ref, is no image
            obj = obj.set_coords([name for name, each in obj.data_vars.items() if not each.dims])
        variables = variables_of(obj)
        first = next(iter(variables.values()))
        dims = cast("tuple[str, ...]", first.dims)  # `coords_of` refuses names of other types
        samples = (sample_dims,) if isinstance(sample_dims, str) else tuple(sample_dims)
        is_dataset = hasattr(obj, "data_vars")
        check_dims(variables, samples, is_dataset)
        check_dtypes(variables)
        for name, variable in variables.items():
            if by_points(variable):
                raise SourceError(
                    f"{name!r} was transposed, or indexed by arrays, after it was opened lazily; xarray then "
                    "looks up each value by itself, in many times the memory of a tile: leave the dims in "
                    "their stored order, which may be any order, or call chunk(...).transpose(...)."
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
        super().__init__(layout, planes, None if mask is None else mask_of(mask, first.sizes, coords))
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
    """The number of dates among the features: a cloud covers all bands of a date."""
    lengths = [
        length
        for dim, length in zip(layout.feature_dims, layout.feature_shape, strict=True)
        if dim in layout.coords and layout.coords[dim].values.dtype.kind == "M"
    ]
    return lengths[0] if lengths else None


def open_stack(path: StackPath, variable: str | Sequence[str] | None = None) -> StackLike:
    """A stack from a Zarr store of xarray, in format 2 or 3, or from GeoTIFFs, opened lazily.

    Values are neither read nor decoded; scale, offset and `_FillValue` stay in the attrs, where `Stack`
    finds them, and workers read the tiles.

    Parameters
    ----------
    path : str, path, zarr Store or zarr.Group; or sequence of paths
        A name that ends in .tif or .tiff is that of a GeoTIFF, which needs the ``raster`` extra, as .vrt and
        .jp2 do. Several GeoTIFFs of one grid, also by a pattern such as ``"*.tif"``, are concatenated along a
        new dim ``time``, with the dates in their names as coordinates; files of one band each along ``band``.
        One array of a Zarr group, such as a level of a multiscale image, is given by its path or by
        `variable`, if its dims have names.
    variable : str or sequence of str, optional
        One or several variables of a Zarr store. By default all, in the order of their names.

    Returns
    -------
    stack : xarray.DataArray or xarray.Dataset
        A DataArray where `variable` is a str or the store has a single variable.

    Raises
    ------
    SourceError
        If nothing can be opened at the path, or there is no such variable.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, xarray as xr
    >>> from dasknmf.stacks import open_stack
    >>> scene = xr.DataArray(np.ones((3, 4, 6)), dims=("band", "y", "x"), name="reflectance")
    >>> with tempfile.TemporaryDirectory() as path:
    ...     _ = scene.to_zarr(path, mode="w", consolidated=False)
    ...     stack = open_stack(path)
    >>> stack.dims
    ('band', 'y', 'x')
    """
    xarray = needed("xarray", "stacks", "xarray")
    path = as_files(path)
    if is_read_by_gdal(path):
        if variable is not None:
            raise SourceError(f"{path!r} has bands and no variables; leave out variable={variable!r}.")
        return open_raster(path)
    if isinstance(path, (list, tuple)):
        raise SourceError(
            f"{[_shown(each) for each in path]} are not all GeoTIFFs; only GeoTIFFs can be concatenated "
            "along a new dim: give one store, or a DataArray that xarray.concat has made."
        )
    group = path if isinstance(path, zarr.Group) else open_node(path)
    if not isinstance(group, zarr.Group):
        if isinstance(path, (str, os.PathLike)) and dims_of(group):
            above, _, name = os.fspath(path).rstrip("/").rpartition("/")
            return open_stack(above or ".", name)
        raise SourceError(
            f"{str(path)!r} is a Zarr array without names of dims; a stack is a group that xarray has "
            "written: give the path of the group, and variable= for one of its arrays."
        )
    refuse_pickles(group)
    others = [] if variable is None else others_than(variable, group)
    try:
        found = xarray.open_dataset(
            SourceStore(group.store),
            engine="zarr",
            group=group.path or None,
            consolidated=group.metadata.consolidated_metadata is not None,
            chunks=None,
            mask_and_scale=False,
            decode_timedelta=False,
            drop_variables=others,
        )
    except ValueError as error:
        if "conflicting sizes" not in str(error):
            raise
        shapes = {name: array.shape for name, array in sorted(group.arrays())}
        raise SourceError(
            f"the arrays of {str(path)!r} have different sizes, {shapes}; a stack is one of them, or several "
            "of one size: give variable= (--variable)."
        ) from None
    # Some writers name the CRS in an attribute only.
    named = {each.attrs.get("grid_mapping") for each in found.data_vars.values()}
    found = found.set_coords([name for name in found.data_vars if name in named])
    # Coordinates are decoded, unlike the values.
    found = found.assign_coords(xarray.decode_cf(found.coords.to_dataset(), decode_timedelta=False).coords)
    wanted = sorted(found.data_vars) if variable is None else variable  # a directory lists them in any order
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    missing = [name for name in names if name not in found.data_vars]
    if missing or not names:
        raise SourceError(
            f"{str(path)!r} has no variable {missing[0] if missing else ''!r}; its variables are "
            f"{sorted(found.data_vars)}: give one of these."
        )
    for name in _undeclared_zeros(group, found[names]):
        found[name].attrs.pop("_FillValue")
    single = isinstance(wanted, str) or (variable is None and len(names) == 1)
    return found[names[0]] if single else found[names]


def _undeclared_zeros(group: zarr.Group, found: Dataset) -> list[str]:
    """Variables whose missing value is 0 only because Zarr's format 2 has this fill value by default.

    xarray gives no fill value by default: in a store of xarray, which has coordinates or an encoding, 0 was
    declared.
    """
    names = []
    for name, variable in found.data_vars.items():
        array = group[str(name)]
        declared = _DECLARED & set(array.attrs) or any(str(dim) in group for dim in variable.dims)
        if array.metadata.zarr_format == 2 and not declared and variable.attrs.get("_FillValue") == 0:
            names.append(str(name))
    if names:
        warnings.warn(
            f"the arrays {names} have Zarr's fill value 0 and no attribute _FillValue; zeros are taken as "
            "data: give missing_values=0 (--missing 0) if they mark missing values.",
            UserWarning,
            stacklevel=3,
        )
    return names


def _shown(path: object) -> str:
    return os.fspath(path) if isinstance(path, (str, os.PathLike)) else type(path).__name__


def _lengths(variable: Variable, dim: str) -> Sequence[int]:
    """Lengths of the chunks of a variable along a dim: of Dask, or as stored."""
    length = int(variable.sizes[dim])
    if variable.chunks is not None:
        return tuple(map(int, variable.chunksizes[dim]))
    if in_memory(variable):
        return (1,) * length
    chunk = int(variable.encoding.get("preferred_chunks", {}).get(dim, length))
    return (chunk,) * (length // chunk) + ((length % chunk,) if length % chunk else ())
