"""`StackNMF`: the factorization of a stack of images."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr
from sklearn.exceptions import NotFittedError
from zarr.storage import StoreLike

from dasknmf import NMF, open_run
from dasknmf.core.history import Callback
from dasknmf.core.html_repr import card_of_model
from dasknmf.core.image_grid import Layout
from dasknmf.errors import RunMismatchError
from dasknmf.fitting.problem import FitOptions
from dasknmf.stacks import arrays, dataset
from dasknmf.stacks.encoding import PLAIN, Missing, Units, units_of
from dasknmf.stacks.geotiff_in import RasterPath
from dasknmf.stacks.reorder import fixed_rows, ordered
from dasknmf.stacks.stack import Stack, open_stack
from dasknmf.store.run import Run
from dasknmf.store.schema import Entries

AnyStack: TypeAlias = xr.DataArray | xr.Dataset | Stack | RasterPath
"""A stack, its path or URL, or the paths of several GeoTIFFs."""
_OF_STACKS = ("negatives", "missing_values")


class StackNMF:
    """Nonnegative matrix factorization of a stack of images: V ≈ WH, with W as maps and H as spectra.

    A row of V is a pixel, a column of V is a combination of the other dims: a band, or a band and a date. W
    becomes `abundance`, with an image for each component; H becomes `endmember`, with a spectrum or a time
    course for each. Stacks need not fit in memory: they are read tile by tile as they are stored, once per
    iteration.

    Parameters
    ----------
    n_components : int or "auto", default="auto"
        The number of components, as for `NMF`.
    negatives : {"error", "clip", "mask"}, default="error"
        The treatment of values below zero, after scale and offset: an error, replacement by 0, or exclusion
        as missing.
    missing_values : {"auto", "error", "nan"} or float, default="auto"
        The stored values that mark missing entries. "auto": NaN and those in the attributes `_FillValue`,
        `missing_value` and `nodata`; "nan": NaN; "error": none, NaN is an error; a number: this stored value
        and NaN.
    **parameters
        Those of `NMF`: `beta_loss`, `solver`, `init`, `max_iter`, `tol`, `random_state`, …

    Attributes
    ----------
    abundance : xarray.DataArray of dims (component, *sample_dims)
        W, NaN in pixels without an observed value, which are 0 in the factor; if there are any, all pixels
        with zeros in all components are NaN. Maps and spectra are determined up to a factor for each
        component, unless `sum_to_one` makes maps fractions. In memory where the stack is in memory, else
        lazy: read from the checkpoint if the fit has one.
    endmember : xarray.DataArray of dims (component, *feature_dims)
        H, in the units of the stack; NaN in features without an observed value.
    layout : Layout
        The places of pixels and features of the stack in V.
    model_ : NMF
        The fitted model, with `history_`, `reconstruction_err_`, `n_iter_`, ….

    See Also
    --------
    dasknmf.NMF : The factorization of a matrix, with the parameters and the attributes of `model_`.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from dasknmf.stacks import StackNMF
    >>> values = np.random.default_rng(0).random((4, 6, 5))
    >>> scene = xr.DataArray(values, dims=("band", "y", "x"), coords={"band": ["b", "g", "r", "nir"]})
    >>> model = StackNMF(2, random_state=0, tol=1e-3).fit(scene)
    >>> model.abundance.dims, model.endmember.dims
    (('component', 'y', 'x'), ('component', 'band'))
    """

    abundance: xr.DataArray
    endmember: xr.DataArray
    layout: Layout
    model_: NMF
    _units: Units | None = None
    """Scale and offset of the fitted stack; None if it holds floats, which have no units of their own."""

    def __init__(
        self,
        n_components: int | Literal["auto"] = "auto",
        *,
        negatives: str = "error",
        missing_values: Missing = "auto",
        **parameters: Any,
    ) -> None:
        known = NMF().get_params()
        unknown = [name for name in parameters if name not in known]
        if unknown:
            raise TypeError(
                f"StackNMF has no parameter {unknown[0]!r}; it takes those of NMF, {sorted(known)}, and "
                "negatives: correct the name."
            )
        self.negatives = negatives
        self.missing_values = missing_values
        self._parameters = {"n_components": n_components, **parameters}

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._given().items())
        return f"StackNMF({given})"

    def _repr_html_(self) -> str | None:
        if not hasattr(self, "model_"):
            return None  # a notebook then shows the text
        geometry = self.layout.geometry()
        lengths = geometry["features"] | geometry["samples"]
        stack = " × ".join(f"{dim} {length:,}" for dim, length in lengths.items())
        return card_of_model(self.model_, repr(self), [("stack", stack)])

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name, for scikit-learn's ``clone``."""
        of_stacks = {name: getattr(self, name) for name in _OF_STACKS}
        return {**NMF().get_params(), **self._parameters, **of_stacks}

    def set_params(self, **parameters: Any) -> StackNMF:
        """Change parameters.

        Returns
        -------
        self : StackNMF

        Raises
        ------
        ValueError
            If there is no such parameter.
        """
        try:
            changed = StackNMF(**{**self._given(), **parameters})
        except TypeError as error:
            raise ValueError(str(error)) from error  # as scikit-learn's estimators do
        self.negatives, self.missing_values = changed.negatives, changed.missing_values
        self._parameters = changed._parameters
        return self

    def fit(
        self,
        obj: AnyStack,
        sample_dims: str | tuple[str, ...] = ("y", "x"),
        mask: xr.DataArray | None = None,
        *,
        checkpoint: StoreLike | None = None,
        overwrite: bool = False,
        stage: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] = (),
        **options: Any,
    ) -> StackNMF:
        """Fit the model to a stack.

        Parameters
        ----------
        obj : xarray.DataArray, xarray.Dataset, Stack, or path or URL
            The stack: see `dasknmf.stacks.Stack`; a path as for `open_stack`.
        sample_dims : str or tuple of str, default=("y", "x")
            The dims of an image. All other dims are features, and so are the variables of a dataset.
        mask : xarray.DataArray of bool, optional
            True where the stack counts, over any of its dims.
        checkpoint, overwrite, stage, callbacks
            As for `NMF.fit`: the store in which each pass is committed, and the place where the stack is
            kept near the workers.
        **options
            Other options of `NMF.fit`. A DataArray as `sample_weight` is over the sample dims, as
            `feature_weight` over the feature dims, and as `weights` over any dims, repeated along the others.
            A NumPy or Dask array has one row for each pixel in raster order, however the stack is chunked:
            the rows of ``stack.transpose(*sample_dims, *feature_dims)`` after a reshape.

        Returns
        -------
        self : StackNMF

        Raises
        ------
        SourceError
            If the object is no stack, or has no such dims.
        DataError
            If the stack has negative values, or missing values, and these are errors.
        """
        stack = self._stack(obj, sample_dims, mask)
        fixed = fixed_rows(self._parameters.get("fixed_components"), stack.layout)
        model = NMF(**{**self._parameters, "fixed_components": fixed})
        given = {
            name: ordered(name, value, stack.layout, lazily=not stack.is_in_memory)
            for name, value in options.items()
        }
        storage: dict[str, Any] = {"checkpoint": checkpoint, "overwrite": overwrite, "stage": stage}
        W = model._fit(stack, FitOptions(**given, **storage, callbacks=callbacks, returns_W=True))
        self._units = None if stack.dtype.kind == "f" else units_of(stack.entries)
        return self._set_fit(model, stack.layout, W.compute() if stack.is_in_memory else W)

    def fit_transform(
        self, obj: AnyStack, sample_dims: str | tuple[str, ...] = ("y", "x"), **options: Any
    ) -> xr.DataArray:
        """Fit the model and return `abundance`; parameters as for `fit`."""
        return self.fit(obj, sample_dims, **options).abundance

    def transform(self, obj: AnyStack, mask: xr.DataArray | None = None) -> xr.DataArray:
        """The abundances of another scene, with the endmembers of the fit.

        Parameters
        ----------
        obj : xarray.DataArray, xarray.Dataset, Stack, or path or URL
            The scene, with the sample dims and the features of the stack of the fit.
        mask : xarray.DataArray of bool, optional
            True where the scene counts.

        Returns
        -------
        abundance : xarray.DataArray
            W of the scene. Lazy where the scene is not in memory; computing the abundances reads it once.

        Raises
        ------
        ValueError
            If the features differ from those of the fit.
        """
        stack = self._scene(obj, mask)
        W = self.model_._coded(stack, "maps")
        W = W.compute() if stack.is_in_memory else W
        return arrays.abundance(W, stack.layout, len(self.endmember))

    def _scene(self, obj: AnyStack, mask: xr.DataArray | None) -> Stack:
        """Another scene, after a check that it has the features of the fit."""
        layout = self._fitted()
        stack = self._stack(obj, layout.sample_dims, mask)
        if stack.layout.feature_dims != layout.feature_dims:
            raise ValueError(
                f"the scene has the feature dims {list(stack.layout.feature_dims)} and the model has "
                f"{list(layout.feature_dims)}; they must be the same, in the same order: transpose, rename "
                "or select."
            )
        if stack.dtype.kind in "iu" and self._units is not None:
            fitted, here = self._units, units_of(stack.entries)
            if (fitted == PLAIN) != (here == PLAIN):
                warnings.warn(
                    f"the scene has scale and offset {here}, and the stack of the fit had {fitted}; "
                    "endmembers are in the units of the fit: set scale_factor and add_offset in the attrs of "
                    "the scene, or delete them, unless its values are in these units all the same.",
                    UserWarning,
                    stacklevel=3,
                )
        return stack

    def score_samples(self, obj: AnyStack, mask: xr.DataArray | None = None) -> xr.DataArray:
        """The error of each pixel of a scene: D(x | wH) with the abundances that `transform` finds.

        Parameters
        ----------
        obj, mask
            As for `transform`.

        Returns
        -------
        errors : xarray.DataArray of dims sample_dims
            Half the squared residual for the Frobenius loss. Lazy where the scene is not in memory.
        """
        stack = self._scene(obj, mask)
        errors = self.model_._coded(stack, "score_samples")[:, None]
        errors = errors.compute() if stack.is_in_memory else errors
        return arrays.abundance(errors, stack.layout, 1).isel(component=0, drop=True).rename("error")

    def inverse_transform(self, abundance: xr.DataArray) -> xr.DataArray | xr.Dataset:
        """The reconstruction WH, with the dims of the stack; missing entries have values too.

        Parameters
        ----------
        abundance : xarray.DataArray of dims (component, *sample_dims)
            The abundances of this model, or from `transform`.

        Returns
        -------
        stack : xarray.DataArray or xarray.Dataset
            WH, lazy where the abundances are lazy, in the units of V after scale and offset.
        """
        return arrays.reconstruction(abundance, self.endmember, self._fitted())

    def to_dataset(self) -> xr.Dataset:
        """The fit as one dataset: factors, history and parameters.

        Returns
        -------
        dataset : xarray.Dataset
            `abundance`, `endmember`; `loss`, `seconds`, `bytes_read`, `reads` and the other columns of the
            history over a dim ``pass``; `holdout`, the loss of held-out entries, if there are any; the
            coordinates of the stack; parameters as JSON in the attrs.
        """
        layout = self._fitted()
        return dataset.dataset_of(self.model_, self.get_params(), layout, self.abundance, self.endmember)

    @classmethod
    def from_run(cls, run: Run | StoreLike) -> StackNMF:
        """The model of a checkpoint, whether its fit has finished or not.

        A run does not keep the parameter `missing_values`: where it was not "auto", set it with `set_params`
        before `transform`.

        Parameters
        ----------
        run : Run, or the path, URL or Zarr store of a run

        Returns
        -------
        model : StackNMF

        Raises
        ------
        RunMismatchError
            If the run is that of a plain matrix.
        """
        run = run if isinstance(run, Run) else open_run(run)
        if run.layout is None:
            raise RunMismatchError(
                f"the run at {str(run.store)!r} is the run of a matrix of shape {run.shape}, whose rows are "
                "not the pixels of an image: use NMF.from_run."
            )
        fitted = NMF.from_run(run)
        fitted.set_params(missing_values="error")  # the stack of a transform marks missing values itself
        parameters = {name: value for name, value in fitted.get_params().items() if name != "missing_values"}
        negatives = None if run.identity.entries is None else run.identity.entries.negatives
        found = cls(negatives=negatives or "error", **parameters)
        # Floats, whose NaN is missing, were scaled before; digests of several scales cannot be compared.
        entries = run.identity.entries or Entries()
        scale = PLAIN[0] if entries.scale is None else entries.scale
        offset = PLAIN[1] if entries.offset is None else entries.offset
        if not entries.nan and not isinstance(scale, str) and not isinstance(offset, str):
            found._units = scale, offset
        return found._set_fit(fitted, run.layout, run.rows)

    def _given(self) -> dict[str, Any]:
        """The parameters that differ from their defaults, `n_components` first."""
        defaults = {**NMF().get_params(), "negatives": "error", "missing_values": "auto"}
        found = {**self._parameters, **{name: getattr(self, name) for name in _OF_STACKS}}
        return {name: value for name, value in found.items() if repr(value) != repr(defaults[name])}

    def _stack(self, obj: AnyStack, sample_dims: str | tuple[str, ...], mask: xr.DataArray | None) -> Stack:
        if isinstance(obj, Stack):
            if mask is not None:
                raise ValueError(
                    "mask is given together with a Stack, which has its own mask: give it to Stack(mask=...)."
                )
            return obj
        images: Any = open_stack(obj) if isinstance(obj, (str, os.PathLike, list, tuple)) else obj
        return Stack(images, sample_dims, mask, self.missing_values, self.negatives)

    def _set_fit(self, model: NMF, layout: Layout, W: np.ndarray | da.Array) -> StackNMF:
        self.model_, self.layout = model, layout
        gaps = model.n_unobserved_samples_ > 0
        self.abundance = arrays.abundance(W, layout, model.n_components_, gaps=gaps)
        gaps = model.n_unobserved_features_ > 0
        self.endmember = arrays.endmember(np.asarray(model.components_), layout, gaps=gaps)
        return self

    def _fitted(self) -> Layout:
        if not hasattr(self, "layout"):
            raise NotFittedError("This StackNMF instance is not fitted yet: call fit with a stack first.")
        return self.layout
