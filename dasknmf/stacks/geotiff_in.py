"""GeoTIFFs as stacks: one file's bands, or files of one grid on several dates. Needs the ``raster`` extra."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np

from dasknmf.core.image_grid import merged
from dasknmf.errors import SourceError
from dasknmf.io.optional import needed

if TYPE_CHECKING:
    from xarray import DataArray

RasterPath: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""The path or URL of a GeoTIFF, or those of several."""
TIME = "time"
_BAND = "band"
_CHUNK_BYTES = 4 * 2**20
"""The size in bytes up to which blocks of a file are read together."""
_DATE = re.compile(r"(?<!\d)(\d{4})-?(\d{2})-?(\d{2})(?!\d)")


def is_raster(path: object) -> TypeGuard[RasterPath]:
    """Whether a path or URL, or each of several, names a GeoTIFF: it ends in .tif or .tiff."""
    if isinstance(path, (list, tuple)):
        return bool(path) and all(map(is_raster, path))
    return isinstance(path, (str, os.PathLike)) and _file(path).lower().endswith((".tif", ".tiff"))


def is_read_by_gdal(path: object) -> TypeGuard[RasterPath]:
    """Whether a path or URL, or each of several, names a GeoTIFF, a JPEG 2000 or a virtual raster of GDAL."""
    if isinstance(path, (list, tuple)):
        return bool(path) and all(map(is_read_by_gdal, path))
    return is_raster(path) or (
        isinstance(path, (str, os.PathLike)) and _file(path).lower().endswith((".vrt", ".jp2"))
    )


def open_raster(path: RasterPath) -> DataArray:
    """Open a GeoTIFF, or several of one grid, without reading values.

    Parameters
    ----------
    path : str or path, or sequence of these
        Several files are concatenated along a new dim ``time``, in the given order; files of one band each,
        without dates in their names, along ``band``.

    Returns
    -------
    xarray.DataArray
        The dims are (band, y, x), of several files (time, band, y, x). Times are the dates in the names of
        the files where they all differ, else these names; bands are their descriptions where they all
        differ, else numbers. Where a file has a mask (internal, beside it, or an alpha band, which is left
        out), values are floats, NaN under the mask. Nodata, scale and offset are in the attrs, where `Stack`
        finds them; CRS and transform are in the coordinate ``spatial_ref``.

    Raises
    ------
    SourceError
        If a file cannot be opened, its bands have scales of their own, or several are not of one grid.
    """
    if isinstance(path, (str, os.PathLike)):
        return _opened(os.fspath(path), chunked=False)
    import xarray

    paths = [os.fspath(each) for each in path]
    parts = [_opened(each, chunked=True) for each in paths]
    for other, part in zip(paths[1:], parts[1:], strict=True):
        _check_alike(paths[0], parts[0], other, part)
    labels = _labels(paths)
    if labels.dtype.kind != "M" and all(part.sizes[_BAND] == 1 for part in parts):
        parts = [part.drop_vars(_BAND).squeeze(_BAND) for part in parts]  # one file for each band
        dim = _BAND
    else:
        dim = TIME
    found = xarray.concat(
        parts, dim=xarray.Variable((dim,), labels), join="override", combine_attrs="drop_conflicts"
    )
    found.attrs |= {name: value for name, value in parts[0].attrs.items() if name in _OF_VALUES}
    return found


_OF_VALUES = ("_FillValue", "scale_factor", "add_offset")


def _opened(path: str, *, chunked: bool) -> DataArray:
    rioxarray = needed("rioxarray", "GeoTIFFs", "raster")
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # pixels have their places all the same
            warnings.filterwarnings("ignore", message="(Scales|Offsets) differ across bands")
            # Without a lock each thread reads through a handle of its own, and all at once.
            masked, counts = _masks(path)
            found = rioxarray.open_rasterio(
                path, mask_and_scale=False, masked=masked, cache=False, lock=False
            )
    except (RasterioError, OSError) as error:
        raise SourceError(f"{path!r} cannot be opened as a GeoTIFF ({error}): check the path.") from error
    if not hasattr(found, "dims") or not hasattr(found, "dtype"):
        raise SourceError(f"{path!r} has several grids (subdatasets); give the name of one of them.")
    for name in {"scales", "offsets"} & found.attrs.keys():
        raise SourceError(
            f"the bands of {path!r} have different {name} {found.attrs[name]}; they must be the same for all "
            "bands: convert the file, or open it with rioxarray.open_rasterio(..., band_as_variable=True) in "
            "Python."
        )
    if not all(counts):
        bands = found.isel({_BAND: np.flatnonzero(counts)})
        if not masked:  # GDAL applies an alpha band only if it is the second or the fourth
            bands, found = (each.chunk(_chunks(found)) for each in (bands, found))
            bands = bands.where(found.isel({_BAND: counts.index(False)}, drop=True) != 0)
        found = bands
    if chunked and found.chunks is None:
        found = found.chunk(_chunks(found))
    described = found.attrs.get("long_name")
    if isinstance(described, tuple) and all(described) and len(set(described)) == len(described):
        del found.attrs["long_name"]
        found = found.assign_coords({_BAND: np.array(described, dtype=str)})
    found.attrs = {name: value for name, value in found.attrs.items() if name != "AREA_OR_POINT"}
    return found


def _masks(path: str) -> tuple[bool, list[bool]]:
    """Whether a file has a mask other than its nodata value, and which of its bands are not alpha bands."""
    import rasterio
    from rasterio.enums import ColorInterp, MaskFlags

    with rasterio.open(path) as file:
        flags = [set(each) for each in file.mask_flag_enums]
        masked = any(MaskFlags.per_dataset in each and MaskFlags.nodata not in each for each in flags)
        counts = [each is not ColorInterp.alpha for each in file.colorinterp]
    return masked, counts if any(counts) else [True] * len(counts)


def _chunks(array: DataArray) -> dict[Hashable, Any]:
    """Chunks of whole blocks of the file, large enough for one read each."""
    blocks: Mapping[Hashable, int] = array.encoding["preferred_chunks"]
    *bands, y, x = array.dims
    lengths = []
    for dim in (y, x):
        length, block = array.sizes[dim], min(blocks[dim], array.sizes[dim])
        lengths.append([block] * (length // block) + ([length % block] if length % block else []))
    pixel_bytes = array.dtype.itemsize * int(np.prod([array.sizes[dim] for dim in bands]))
    tiles = merged(lengths, pixel_bytes, _CHUNK_BYTES).lengths
    return {**dict.fromkeys(bands, -1), y: tiles[0], x: tiles[1]}


def _check_alike(first: str, a: DataArray, path: str, b: DataArray) -> None:
    pairs = [
        ("dims", dict(a.sizes), dict(b.sizes)),
        ("dtype", a.dtype, b.dtype),
        ("CRS", _crs(a), _crs(b)),
        ("transform", tuple(a.rio.transform())[:6], tuple(b.rio.transform())[:6]),
        ("bands", a[_BAND].values.tolist(), b[_BAND].values.tolist()),
        *((name, a.attrs.get(name), b.attrs.get(name)) for name in _OF_VALUES),
    ]
    for what, one, other in pairs:
        # NaN, a usual nodata, is not equal to itself.
        if not (one == other or (what in _OF_VALUES and str(one) == str(other))):
            raise SourceError(
                f"{path!r} has the {what} {other} and {first!r} has {one}; files that are concatenated along "
                f"{TIME!r} need the same grid, bands and encoding: convert them, with gdalwarp for example, "
                "or leave the file out."
            )


def _crs(array: DataArray) -> str:
    crs = array.rio.crs
    return "none" if crs is None else str(crs.to_string())


def _labels(paths: Sequence[str]) -> np.ndarray:
    """The dates in the names, where each has a date of its own; else the names."""
    names = [re.sub(r"\.tiff?$", "", _file(path), flags=re.IGNORECASE) for path in paths]
    dates = [_date(name) for name in names]
    if None not in dates and len(set(dates)) == len(dates):
        return np.array(dates, dtype="datetime64[ns]")
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise SourceError(
            f"{count} files are named {name!r}; the names label the dates of a stack: give each file only "
            "once, and under a different name."
        )
    return np.array(names, dtype=str)


def _date(name: str) -> str | None:
    for found in _DATE.finditer(name):
        text = "-".join(found.groups())
        try:
            np.datetime64(text)
        except ValueError:
            continue
        return text
    return None


def _file(path: str | os.PathLike[str]) -> str:
    return PurePosixPath(os.fspath(path).replace(os.sep, "/")).name
