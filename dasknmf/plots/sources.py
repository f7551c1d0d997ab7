"""W, H, names and passes of the source of a picture: a model, a run or arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec.structs import asdict

from dasknmf.core.history import Record
from dasknmf.core.image_grid import Layout, with_gaps
from dasknmf.store.run import Run, open_run

if TYPE_CHECKING:
    from dasknmf.estimator import NMF


class StackModel(Protocol):
    """A fitted model of a stack, such as `StackNMF`."""

    model_: NMF


Factorization: TypeAlias = "NMF | StackModel | Run | os.PathLike[str] | npt.ArrayLike"
"""A fitted model, a run or the path of a run, or the array that a picture shows."""


def opened(source: Any) -> Any:
    """The run, if the source is the path of one; else the source itself."""
    return open_run(source) if isinstance(source, (str, os.PathLike)) else source


def selection_of(source: Any) -> Any:
    """The findings of a sweep or a consensus, if the source is its run or the path; else the source itself.

    Raises
    ------
    ValueError
        If the run has none.
    """
    source = opened(source)
    if not isinstance(source, Run):
        return source
    found, many = source.found, source.identity.many
    if found is None or many is None:
        raise ValueError(
            f"the run at {str(source.store)!r} is not a finished sweep or consensus, which this picture "
            "needs: give the run of a rank_sweep or a consensus that has ended."
        )
    return SimpleNamespace(**asdict(many) | found)


def fitted(source: Any) -> Any:
    """The run at a path, or the NMF of a model of a stack; else the source itself."""
    source = opened(source)
    return getattr(source, "model_", source)


def images_of(source: Any, layout: tuple[int, int] | Layout | None) -> np.ndarray:
    """The map of each component, shape (n_components, rows, columns).

    Raises
    ------
    ValueError
        If the layout of the rows of W is unknown, or not that of an image.
    """
    source = opened(source)
    # A DataArray, or that of a model of a stack, with dims (component, rows, columns) of any names.
    images = getattr(source, "abundance", source)
    if getattr(images, "dims", ())[:1] == ("component",):
        maps = images.to_numpy()
    else:
        layout = getattr(source, "layout", None) if layout is None else layout
        if layout is None:
            raise ValueError(
                "the rows of W have no layout; maps need the place of each pixel: give layout=(rows, "
                "columns)."
            )
        W = getattr(source, "W", source)
        W = matrix(W.compute() if hasattr(W, "compute") else W, "W")
        if getattr(source, "n_unobserved_samples", 0):
            W = with_gaps(W, 0)
        if not isinstance(layout, Layout):
            return np.asarray(W.T.reshape(-1, *check_image(layout, len(W), "pixels")))
        maps = np.asarray(W.T.reshape(-1, *layout.sample_shape))
    if maps.ndim != 3:
        raise ValueError(
            f"the number of sample dims is {maps.ndim - 1}, and a map has two: give the rows of one image."
        )
    return maps


def records_of(source: Any) -> Sequence[Record]:
    """The passes of a history, a fitted model or a run.

    Raises
    ------
    TypeError
        If the source has no history.
    """
    source = fitted(source)
    for name in ("history_", "history"):
        source = getattr(source, name, source)
    if not isinstance(source, Sequence) or not all(isinstance(each, Record) for each in source):
        raise TypeError(
            f"{type(source).__name__} has no history; convergence needs the passes of a fit: give a History, "
            "a fitted model or a run."
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


def spectra_of(source: Any) -> np.ndarray:
    """H as `factor_of`, with NaN in features without an observed entry."""
    H, source = factor_of(source), fitted(source)
    n_unobserved = getattr(source, "n_unobserved_features_", getattr(source, "n_unobserved_features", 0))
    return with_gaps(H, 1) if n_unobserved else H


def coordinate_of(layout: Layout, dim: str) -> np.ndarray | None:
    """The coordinate of a feature dim as an abscissa; None unless all values are finite numbers or dates."""
    coordinate = layout.coords.get(dim)
    if coordinate is None or coordinate.dims != (dim,) or coordinate.values.dtype.kind not in "iufM":
        return None
    values = np.asarray(coordinate.values)
    known = ~np.isnat(values) if values.dtype.kind == "M" else np.isfinite(values)
    return values if known.all() else None


def abscissa_of(source: Any) -> np.ndarray | None:
    """The coordinate of the features, if the source is the run of a stack with one feature dim; else None."""
    layout = getattr(opened(source), "layout", None)
    if layout is None or len(layout.feature_dims) != 1:
        return None
    return coordinate_of(layout, layout.feature_dims[0])


def names_of(source: Any, given: Sequence[str] | None, n_features: int) -> np.ndarray | None:
    """Names of the features: the given ones, or else those of the source, None if it has none.

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
            f"there are {len(names)} feature names and {n_features} features; each feature needs a name: "
            "give as many."
        )
    return names


def matrix(values: npt.ArrayLike, what: str) -> np.ndarray:
    """An array of two dimensions.

    Raises
    ------
    ValueError
        If the array has another number of dimensions.
    """
    array = np.asarray(values)
    if array.ndim != 2:
        raise ValueError(f"{what} has shape {array.shape}; it must have two dimensions: give a matrix.")
    return array


def titles_of(labels: Sequence[str] | None, count: int) -> list[str]:
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
            f"there are {len(titles)} labels and {count} components; each component needs a label: give as "
            "many."
        )
    return titles


def check_image(shape: Sequence[int], size: int, what: str) -> tuple[int, int]:
    """Rows and columns of an image of `size` values.

    Raises
    ------
    ValueError
        If their product is another number.
    """
    sides = tuple(int(side) for side in shape)
    if len(sides) != 2 or sides[0] * sides[1] != size:
        raise ValueError(
            f"an image of shape {sides} does not hold {size} {what}; rows times columns must be {size}: "
            "give the shape of the image."
        )
    return sides[0], sides[1]
