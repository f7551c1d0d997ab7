"""Stacks of images on the command line: what makes SOURCE one, and the stack that it is then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from dasknmf.cli.output import noted
from dasknmf.errors import SourceError
from dasknmf.stacks.encoding import entries_of
from dasknmf.stacks.geotiff_in import is_raster
from dasknmf.stacks.stack import Stack, open_stack


class Dims(click.ParamType):
    """Names with commas between them; in a file of options also a list."""

    name = "DIM,DIM"
    takes_lists = True  # in a file of options

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        names = tuple(value.split(",")) if isinstance(value, str) else tuple(map(str, value))
        names = tuple(name.strip() for name in names)
        if not all(names):
            self.fail(f"{value!r} names no dims: give for example y,x", param, ctx)
        return names


class Missing(click.ParamType):
    name = "error|nan|NUMBER"

    def convert(self, value: Any, param: Any, ctx: Any) -> str | float:
        if value in ("auto", "error", "nan"):
            return str(value)
        try:
            number = float(value)
        except (TypeError, ValueError):
            self.fail(f"{value!r} is neither error, nan nor a number", param, ctx)
        return "nan" if math.isnan(number) else number  # TOML has a nan of its own


def missing_option(default: str) -> Any:
    return click.option(
        "--missing",
        type=Missing(),
        help="What stands for an entry that was not observed: nothing, NaN, or a stored number such as a "
        "raster's nodata. Of stacks also auto: what the stack says itself, and NaN.  "
        f"[default: {default}]",
    )


selecting_options = [
    click.option(
        "--variable",
        multiple=True,
        metavar="NAME",
        help="Of a stack: this variable of the store; again for more.  [default: all]",
    ),
    click.option(
        "--mask",
        metavar="STORE[:VARIABLE]",
        help="Of a stack: a variable of bools in a Zarr store that xarray has written, or a GeoTIFF of one "
        "band, over any of the dims: what is true, or neither 0 nor nodata, counts.",
    ),
]

stack_options = [
    click.option(
        "--sample-dims",
        type=Dims(),
        help="SOURCE is a stack of images: the dims of an image, y,x for example. All others are features.  "
        "[of GeoTIFFs: y,x]",
    ),
    *selecting_options,
    missing_option("error; of stacks auto"),
    click.option(
        "--negatives",
        type=click.Choice(["error", "clip", "mask"]),
        help="Of a stack: values below zero are refused, taken as 0, or as not observed.  [default: error]",
    ),
]


@dataclass(frozen=True)
class Scene:
    """The options that say which stack is factorized, and how it is read."""

    sample_dims: tuple[str, ...] | None = None
    variable: tuple[str, ...] = ()
    mask: str | None = None
    missing: str | float | None = None
    negatives: str | None = None

    def of(self, sources: Sequence[str]) -> Stack | None:
        """The stack at these places; None where a matrix is meant.

        Raises
        ------
        SourceError
            If it cannot be opened, or has no such dims.
        click.UsageError
            If an option that needs a stack is given for something else.
        """
        rasters = [is_raster(source) for source in sources]
        if self.sample_dims is None and not any(rasters):
            self._refuse_without_dims()
            return None
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
            told = ", ".join(f"{value:g}" for value in values[~np.isnan(values)])
            noted(
                f"the stack says itself that {told} stands for nothing observed; with --missing "
                f"{self.missing} it is a value like any other: leave --missing out to have it missing"
            )
        return Stack(obj, dims, mask, self.missing, self.negatives or "error")

    def _refuse_without_dims(self) -> None:
        named = {
            "--variable": bool(self.variable),
            "--mask": self.mask is not None,
            "--negatives": self.negatives is not None,
        }
        if given := [name for name, is_given in named.items() if is_given]:
            raise click.UsageError(
                f"{' and '.join(given)}: for stacks of images, and SOURCE is read as a matrix: give its "
                "dims, --sample-dims y,x for example, or leave this out."
            )


def mask_at(place: str) -> Any:
    """The mask at ``STORE`` or ``STORE:VARIABLE``: an xarray.DataArray of bool, or what is refused as none.

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


def one_or_all(names: tuple[str, ...]) -> Any:
    """What `open_stack` takes for the names of an option."""
    if not names:
        return None
    return names[0] if len(names) == 1 else list(names)


def missing_of_matrix(missing: str | float | None) -> str | float:
    """`missing_values` of a plain matrix.

    Raises
    ------
    click.UsageError
        If what is missing is for a stack to say.
    """
    if missing == "auto":
        raise click.UsageError(
            "--missing auto is for stacks of images, which say themselves what is missing; a matrix does "
            "not: give error, nan or a number."
        )
    return "error" if missing is None else missing
