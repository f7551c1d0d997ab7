"""V from a stack of images: the options that choose it, and how it is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from dasknmf.cli.options import given, option
from dasknmf.cli.output import note
from dasknmf.cli.parameter_types import Dims, Missing
from dasknmf.errors import SourceError
from dasknmf.stacks.encoding import entries_of
from dasknmf.stacks.geotiff_in import is_raster
from dasknmf.stacks.stack import Stack, open_stack

_MISSING = (
    "Value of missing entries: error (none is missing, NaN is refused), nan, or a stored number such as a "
    "raster's nodata; of stacks also auto: NaN, and the value that the stack itself declares."
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
        "Stack: use the pixels, dates or bands where this mask holds: a boolean variable of a Zarr store "
        "that xarray has written, or a GeoTIFF of one band (neither 0 nor nodata).",
        metavar="STORE[:VARIABLE]",
    )
    missing: str | float | None = option(f"{_MISSING}  [default: as in the fit]", type=Missing())


@dataclass(frozen=True, kw_only=True)
class StackOptions(StackSelection):
    """Options of a stack of images that is factorized."""

    missing: str | float | None = option(f"{_MISSING}  [default: error; of stacks auto]", type=Missing())
    sample_dims: tuple[str, ...] | None = option(
        "SOURCE is a stack of images with these dims, such as y,x, as samples; all other dims are features.  "
        "[default of GeoTIFFs: y,x]",
        type=Dims(),
    )
    negatives: str | None = option(
        "Stack: refuse values below zero, take them as 0, or take them as missing.  [default: error]",
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
            raise click.UsageError(
                f"{' and '.join(names)}: for stacks of images, and SOURCE is read as a matrix: give its "
                "dims, --sample-dims y,x for example, or leave this out."
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
        if self.variable and all(rasters):
            raise click.UsageError("--variable chooses from a Zarr store; a GeoTIFF has bands: leave it out.")
        if len(sources) > 1 and not all(rasters):
            raise click.UsageError(
                f"{sources[rasters.index(False)]!r} is no GeoTIFF, and {len(sources)} sources are given; of "
                "stacks only GeoTIFFs are put together, along time: give these, or one store."
            )
        place = sources[0] if len(sources) == 1 else list(sources)
        obj = open_stack(place, one_or_all(self.variable))
        dims = self.sample_dims or ("y", "x")
        mask = None if self.mask is None else mask_at(self.mask)
        stack = Stack(obj, dims, mask, negatives=self.negatives or "error")
        if self.missing in (None, "auto"):
            return stack
        nodata = None if stack.entries is None else stack.entries.nodata
        if nodata is not None and (isinstance(self.missing, str) or np.any(nodata != self.missing)):
            values = np.unique(nodata)
            shown = ", ".join(f"{value:g}" for value in values[~np.isnan(values)])
            note(
                f"the stack says itself that {shown} stands for nothing observed; with --missing "
                f"{self.missing} it is a value like any other: leave --missing out to have it missing"
            )
        return Stack(obj, dims, mask, self.missing, self.negatives or "error")


def mask_at(place: str) -> Any:
    """The mask at ``STORE`` or ``STORE:VARIABLE``, an xarray.DataArray, whose dtype is checked by `Stack`.

    Raises
    ------
    SourceError
        If it cannot be opened, or is none.
    """
    store, colon, variable = place.rpartition(":")
    if not colon or "/" in variable:  # a colon of a URL, or none
        store, variable = place, ""
    found = open_stack(store, variable or None)
    if hasattr(found, "data_vars"):
        raise SourceError(
            f"{store!r} has the variables {sorted(map(str, found.data_vars))}; a mask is one of them: give "
            f"{store}:NAME."
        )
    if is_raster(store):
        if found.sizes["band"] > 1:
            return found
        found = found.squeeze("band", drop=True)
        nodata = entries_of([found.variable], [1], "auto", "error").nodata
        counts = (found != 0) & found.notnull()
        return counts if nodata is None else counts & (found != nodata)
    return found


def one_or_all(names: tuple[str, ...]) -> str | list[str] | None:
    """The argument of `open_stack` for the values of --variable."""
    if not names:
        return None
    return names[0] if len(names) == 1 else list(names)


def missing_of_matrix(missing: str | float | None) -> str | float:
    """The parameter `missing_values` for a matrix.

    Raises
    ------
    click.UsageError
        If --missing is auto, which only stacks take.
    """
    if missing == "auto":
        raise click.UsageError(
            "--missing auto is for stacks of images, which say themselves what is missing; a matrix does "
            "not: give error, nan or a number."
        )
    return "error" if missing is None else missing
