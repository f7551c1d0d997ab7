"""What a picture is drawn of: taken from a model, a run or arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from msgspec.structs import asdict

from dasknmf.core.history import Record
from dasknmf.store.run import Run, open_run


def opened(source: Any) -> Any:
    """The run at a path; anything else as it is."""
    return open_run(source) if isinstance(source, (str, os.PathLike)) else source


def found_of(source: Any) -> Any:
    """What a run, or the run at a path, keeps of many factorizations; anything else as it is.

    Raises
    ------
    ValueError
        If it keeps nothing.
    """
    source = opened(source)
    if not isinstance(source, Run):
        return source
    found, many = source.found, source.identity.many
    if found is None or many is None:
        raise ValueError(
            f"the run at {str(source.store)!r} keeps nothing that many factorizations tell; the picture is "
            "drawn of that: give one of rank_sweep or consensus that has ended."
        )
    return SimpleNamespace(**asdict(many) | found)


def fitted(source: Any) -> Any:
    """The run at a path, the model inside of a model of a stack; anything else as it is."""
    source = opened(source)
    return getattr(source, "model_", source)


def images_of(source: Any, layout: Any) -> np.ndarray:
    """Maps of each component, shape (n_components, rows, columns), of W and where its rows lie.

    Raises
    ------
    ValueError
        If rows do not lie in an image of two dimensions, or nobody says where they lie.
    """
    source = opened(source)
    # What a model of a stack gives, and what it has: (component, y, x), whatever these are called.
    images = getattr(source, "abundance", source)
    if getattr(images, "dims", ())[:1] == ("component",):
        maps = images.to_numpy()
    else:
        layout = getattr(source, "layout", None) if layout is None else layout
        if layout is None:
            raise ValueError(
                "nobody says where the rows of W lie; they are pixels of an image: give its rows and columns."
            )
        W = getattr(source, "W", source)
        W = matrix(W.compute() if hasattr(W, "compute") else W, "W")
        if not hasattr(layout, "images"):
            return np.asarray(W.T.reshape(-1, *check_image(layout, len(W), "pixels")))
        maps = np.asarray(layout.images(W))
    if maps.ndim != 3:
        raise ValueError(
            f"the samples lie along {maps.ndim - 1} dimensions; a map has two: give rows of one image."
        )
    return maps


def records_of(source: Any) -> Sequence[Record]:
    """The passes of a history, a fitted model or a run.

    Raises
    ------
    TypeError
        If it has none.
    """
    source = fitted(source)
    for name in ("history_", "history"):
        source = getattr(source, name, source)
    if not isinstance(source, Sequence) or not all(isinstance(each, Record) for each in source):
        raise TypeError(
            f"{type(source).__name__} has no history; a picture of convergence is drawn of a History, a "
            "fitted model or a run: give one of these."
        )
    return source


def factor_of(source: Any) -> np.ndarray:
    """H, shape (n_components, n_features).

    Raises
    ------
    ValueError
        If an array is not a matrix.
    """
    source = fitted(source)
    for name in ("components_", "H"):
        if hasattr(source, name):
            return np.asarray(getattr(source, name))
    return matrix(source, "H")


def coordinate_of(layout: Any, dim: str) -> np.ndarray | None:
    """Numbers or dates along a feature dim of a layout, where it has them: an abscissa."""
    coordinate = layout.coords.get(dim)
    if coordinate is None or coordinate.dims != (dim,) or coordinate.values.dtype.kind not in "iufM":
        return None
    values = np.asarray(coordinate.values)
    known = ~np.isnat(values) if values.dtype.kind == "M" else np.isfinite(values)
    return values if known.all() else None


def abscissa_of(source: Any) -> np.ndarray | None:
    """The coordinate of the features of a run of a stack, where they lie along one dim."""
    layout = getattr(opened(source), "layout", None)
    if layout is None or len(layout.feature_dims) != 1:
        return None
    return coordinate_of(layout, layout.feature_dims[0])


def names_of(source: Any, given: Any, n_features: int) -> np.ndarray | None:
    """Names of the features, as they are given or else as the source knows them.

    Raises
    ------
    ValueError
        If there are fewer or more names than features.
    """
    if given is None:
        source = fitted(source)
        given = getattr(source, "feature_names_in_", None)
        given = getattr(source, "feature_names", None) if given is None else given
    if given is None:
        return None
    names = np.asarray([str(name) for name in given], dtype=object)
    if len(names) != n_features:
        raise ValueError(
            f"there are {len(names)} feature names and {n_features} features; each needs one: give as many."
        )
    return names


def matrix(values: Any, what: str) -> np.ndarray:
    """An array of two dimensions.

    Raises
    ------
    ValueError
    """
    array = np.asarray(values)
    if array.ndim != 2:
        raise ValueError(f"{what} has shape {array.shape}; it must have two dimensions: give a matrix.")
    return array


def titles_of(labels: Any, count: int) -> list[str]:
    """A title for each component.

    Raises
    ------
    ValueError
        If there are fewer or more labels than components.
    """
    if labels is None:
        return [f"component {component}" for component in range(count)]
    titles = [str(label) for label in labels]
    if len(titles) != count:
        raise ValueError(
            f"there are {len(titles)} labels and {count} components; each needs one: give as many."
        )
    return titles


def check_image(shape: Any, size: int, what: str) -> tuple[int, int]:
    """Rows and columns of an image of `size` values.

    Raises
    ------
    ValueError
    """
    sides = tuple(int(side) for side in shape)
    if len(sides) != 2 or sides[0] * sides[1] != size:
        raise ValueError(
            f"an image of shape {sides} does not hold {size} {what}; rows times columns must be as many: "
            "give the shape of the image."
        )
    return sides[0], sides[1]
