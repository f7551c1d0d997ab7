"""V from a stack of images: the options that choose it, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import click
import numpy as np

from dasknmf.cli.options import given, option
from dasknmf.cli.output import note
from dasknmf.cli.parameter_types import DIMS, MISSING
from dasknmf.errors import SourceError
from dasknmf.stacks.checks import StackLike
from dasknmf.stacks.encoding import entries_of
from dasknmf.stacks.geotiff_in import is_raster
from dasknmf.stacks.stack import Stack, open_stack

if TYPE_CHECKING:
    from xarray import DataArray

_MISSING = (
    "Which entries are missing: error (none; NaN is refused), nan, or a stored number such as a raster's "
    "nodata; for stacks also auto (NaN, and the value that the stack declares)."
)


@dataclass(frozen=True, kw_only=True)
class StackSelection:
    """Options of a stack of images that every command on stacks has."""

    variable: tuple[str, ...] = option(
        "Stack: use this variable of the store; repeat the option for more.  [default: all]",
        multiple=True,
        metavar="NAME",
    )
    mask: str | None = option(
        "Stack: use only the pixels, dates or bands where this mask is True: a boolean variable of a Zarr "
        "store that xarray wrote, or a GeoTIFF of one band, in which 0 and nodata mean False.",
        metavar="STORE[:VARIABLE]",
    )
    missing: str | float | None = option(f"{_MISSING}  [default: as in the fit]", type=MISSING)

    def images(self, place: str | list[str], variables: str | list[str] | None = None) -> StackLike:
        """The images at a place.

        Parameters
        ----------
        place : str or list of str
            A Zarr store, a GeoTIFF, or several GeoTIFFs.
        variables : str or list of str, optional
            The variables of a Zarr store where --variable is not given; by default all.

        Raises
        ------
        SourceError
            If the place cannot be opened.
        click.UsageError
            If --variable is given for a GeoTIFF.
        """
        if is_raster(place if isinstance(place, str) else place[0]):
            if self.variable:
                raise click.UsageError("a GeoTIFF has bands and no variables: leave out --variable.")
            return open_stack(place)
        names = list(self.variable) if len(self.variable) > 1 else "".join(self.variable)
        return open_stack(place, names or variables)

    def mask_array(self) -> DataArray | None:
        """The mask of --mask."""
        return None if self.mask is None else mask_at(self.mask)


@dataclass(frozen=True, kw_only=True)
class StackOptions(StackSelection):
    """Options of a stack of images that is factorized."""

    missing: str | float | None = option(f"{_MISSING}  [default: error; for stacks auto]", type=MISSING)
    sample_dims: tuple[str, ...] | None = option(
        "SOURCE is a stack of images with these dims, such as y,x, as samples; all other dims are features.  "
        "[default for GeoTIFFs: y,x]",
        type=DIMS,
    )
    negatives: str | None = option(
        "Stack: refuse values below zero (error), take them as 0 (clip), or treat them as missing (mask).  "
        "[default: error]",
        type=click.Choice(["error", "clip", "mask"]),
    )

    def is_stack_at(self, sources: tuple[str, ...]) -> bool:
        """Whether these places are read as a stack of images, and not as a matrix.

        Raises
        ------
        click.UsageError
            If an option that needs a stack is given for a matrix, or the other way round.
        """
        if self.sample_dims is not None or any(map(is_raster, sources)):
            return True
        if names := given(self, "variable", "mask", "negatives"):
            listed = " and ".join(names)
            raise click.UsageError(
                f"{listed} can only be used with a stack of images, and SOURCE is read as a matrix: give its "
                f"dims, for example --sample-dims y,x, or leave out {listed}."
            )
        return False

    def stack(self, sources: tuple[str, ...]) -> Stack:
        """The stack at these places.

        Raises
        ------
        SourceError
            If it cannot be opened, or has no such dims.
        click.UsageError
            If sources or options contradict each other.
        """
        rasters = [is_raster(source) for source in sources]
        if len(sources) > 1 and not all(rasters):
            raise click.UsageError(
                f"{sources[rasters.index(False)]!r} is not a GeoTIFF; only GeoTIFFs can be combined to one "
                "stack, along time: give GeoTIFFs only, or one store."
            )
        images = self.images(sources[0] if len(sources) == 1 else list(sources))
        dims, mask, negatives = self.sample_dims or ("y", "x"), self.mask_array(), self.negatives or "error"
        stack = Stack(images, dims, mask, negatives=negatives)
        if self.missing in (None, "auto"):
            return stack
        nodata = None if stack.entries is None else stack.entries.nodata
        if nodata is not None and (isinstance(self.missing, str) or np.any(nodata != self.missing)):
            values = np.unique(nodata)
            shown = ", ".join(f"{value:g}" for value in values[~np.isnan(values)])
            note(
                f"the stack declares {shown} as its missing value; with --missing {self.missing} it is a "
                "value like any other: leave --missing out to treat it as missing"
            )
        return Stack(images, dims, mask, self.missing, negatives)


def mask_at(place: str) -> DataArray:
    """The mask at ``STORE`` or ``STORE:VARIABLE``; `Stack` checks its dtype.

    Raises
    ------
    SourceError
        If it cannot be opened, or is none.
    """
    store, colon, variable = place.rpartition(":")
    if not colon or "/" in variable:  # no colon, or that of a URL
        store, variable = place, ""
    found = open_stack(store, variable or None)
    if hasattr(found, "data_vars"):
        raise SourceError(
            f"{store!r} has the variables {sorted(map(str, found.data_vars))}; a mask is one variable: give "
            f"{store}:NAME."
        )
    mask = cast("DataArray", found)
    if not is_raster(store) or mask.sizes["band"] > 1:
        return mask
    mask = mask.squeeze("band", drop=True)
    nodata = entries_of([mask.variable], [1], "auto", "error").nodata
    counts = (mask != 0) & mask.notnull()
    return counts if nodata is None else counts & (mask != nodata)


def missing_of_matrix(missing: str | float | None) -> str | float:
    """The parameter `missing_values` for a matrix.

    Raises
    ------
    click.UsageError
        If --missing is auto, which only stacks take.
    """
    if missing == "auto":
        raise click.UsageError(
            "--missing auto can only be used with stacks of images, which declare their missing values: give "
            "error, nan or a number."
        )
    return "error" if missing is None else missing
