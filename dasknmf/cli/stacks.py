"""Stacks of images on the command line: what makes SOURCE one, and the stack that it is then."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from dasknmf.errors import SourceError
from dasknmf.inputs.raster import is_raster
from dasknmf.inputs.stack import Stack, open_stack


class Dims(click.ParamType):
    """Names with commas between them; in a file of options also a list."""

    name = "DIM,DIM"

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


missing_option = click.option(
    "--missing",
    type=Missing(),
    help="What stands for an entry that was not observed: nothing, NaN, or a stored number such as a "
    "raster's nodata. Of stacks also auto: what the stack says itself, and NaN.  "
    "[default: error; of stacks auto]",
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
        "band, over any of the dims: what is true, or not 0, counts.",
    ),
    missing_option,
]

stack_options = [
    click.option(
        "--sample-dims",
        type=Dims(),
        help="SOURCE is a stack of images: the dims of an image, y,x for example. All others are features.  "
        "[of GeoTIFFs: y,x]",
    ),
    *selecting_options,
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
        if self.sample_dims is None and not is_raster(list(sources)):
            self._refuse_without_dims()
            return None
        if self.variable and is_raster(list(sources)):
            raise click.UsageError("--variable chooses from a Zarr store; a GeoTIFF has bands: leave it out.")
        if len(sources) > 1 and not is_raster(list(sources)):
            raise click.UsageError(
                f"{len(sources)} sources are given; of stacks only GeoTIFFs are put together, along time: "
                "give one store."
            )
        place = sources[0] if len(sources) == 1 else list(sources)
        obj = open_stack(place, one_or_all(self.variable))
        return Stack(
            obj,
            self.sample_dims or ("y", "x"),
            None if self.mask is None else mask_at(self.mask),
            "auto" if self.missing is None else self.missing,
            self.negatives or "error",
        )

    def _refuse_without_dims(self) -> None:
        named = {
            "--variable": bool(self.variable),
            "--mask": self.mask is not None,
            "--negatives": self.negatives is not None,
            "--missing auto": self.missing == "auto",
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
        return found.squeeze("band", drop=True) != 0 if found.sizes["band"] == 1 else found
    return found


def one_or_all(names: tuple[str, ...]) -> Any:
    """What `open_stack` takes for the names of an option."""
    if not names:
        return None
    return names[0] if len(names) == 1 else list(names)
