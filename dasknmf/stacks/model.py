"""`StackNMF`: the factorization of a stack of images, on the coordinates of its pixels and planes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import xarray as xr
from sklearn.exceptions import NotFittedError

from dasknmf import NMF, open_run
from dasknmf.core.html_repr import card_of_model
from dasknmf.core.image_grid import Layout
from dasknmf.errors import RunMismatchError
from dasknmf.stacks import arrays, dataset
from dasknmf.stacks.reorder import known_rows, ordered
from dasknmf.stacks.stack import Stack, open_stack
from dasknmf.store.run import Run

_OWN = ("negatives", "missing_values")


class StackNMF:
    """Nonnegative matrix factorization of a stack of images: spectra, or time courses, and their maps.

    A row of V is a pixel, a column a combination of the other dims: W becomes `abundance`, with an image
    for each component, H becomes `endmember`. Stacks need not fit in memory: panels are tiles as they are
    stored, each read once per iteration.

    Parameters
    ----------
    n_components : int
    negatives : "error", "clip" or "mask", default="error"
        What becomes of values below zero, after scale and offset: they are refused, taken as 0, or as not
        observed.
    missing_values : "auto", "error", "nan" or float, default="auto"
        Which stored values were not observed: as the stack says in `_FillValue`, `missing_value` or
        `nodata`, and NaN; none; NaN; this value.
    **parameters
        Those of `NMF`: `beta_loss`, `solver`, `init`, `max_iter`, `tol`, `random_state`, …

    Attributes
    ----------
    abundance : xarray.DataArray
        W, with the dims component and those of a pixel. In memory where the stack is; else lazy: over the
        checkpoint, where there is one. 0 in pixels with nothing observed.
    endmember : xarray.DataArray
        H, with the dims component and those of the features, in the units of the stack.
    layout : Layout
    model_ : NMF
        The fitted model, with `history_`, `reconstruction_err_`, `n_iter_`, ….

    See Also
    --------
    dasknmf.NMF : the same for a matrix; its other attributes are those of `model_`.

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

    def __init__(
        self,
        n_components: Any = "auto",
        *,
        negatives: str = "error",
        missing_values: Any = "auto",
        **parameters: Any,
    ) -> None:
        known = NMF().get_params()
        unknown = [name for name in parameters if name not in known]
        if unknown:
            raise TypeError(
                f"StackNMF has no parameter {unknown[0]!r}; it takes those of NMF, {sorted(known)}, and "
                "negatives: mend the name."
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
        """The parameters, by name, as scikit-learn's ``clone`` asks for them."""
        return {**NMF().get_params(), **self._parameters, **{name: getattr(self, name) for name in _OWN}}

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
        obj: Any,
        sample_dims: str | tuple[str, ...] = ("y", "x"),
        mask: Any = None,
        *,
        checkpoint: Any = None,
        overwrite: bool = False,
        stage: Any = None,
        callbacks: Any = (),
        **options: Any,
    ) -> StackNMF:
        """Fit the model to a stack.

        Parameters
        ----------
        obj : xarray.DataArray, xarray.Dataset, Stack, or path or URL
            The stack: see `dasknmf.stacks.Stack`; a path as for `open_stack`.
        sample_dims : str or tuple of str, default=("y", "x")
            The dims of an image. All others are features; the variables of a dataset are one more.
        mask : xarray.DataArray of bool, optional
            True where the stack counts, over any of its dims.
        checkpoint, overwrite, stage, callbacks
            As for `NMF.fit`: where every pass is committed, where the stack is kept near the workers.
        **options
            Others of `NMF.fit`. `sample_weight` and `feature_weight` may be DataArrays over the sample dims
            and the feature dims, `weights` one over any of the dims, along the others alike. Arrays, NumPy or
            Dask, have a row for each pixel in raster order, as in
            ``stack.transpose(*sample_dims, *feature_dims)`` reshaped, however the stack is chunked.

        Returns
        -------
        self : StackNMF

        Raises
        ------
        SourceError
            If the object is no stack, or has no such dims.
        DataError
            If it holds negative values, or missing ones that are refused.
        """
        stack = self._stack(obj, sample_dims, mask)
        fixed = known_rows(self._parameters.get("fixed_components"), stack.layout)
        model = NMF(**{**self._parameters, "fixed_components": fixed})
        W = model.fit_transform(
            stack,
            checkpoint=checkpoint,
            overwrite=overwrite,
            stage=stage,
            callbacks=callbacks,
            **{
                name: ordered(name, value, stack.layout, lazily=not stack.is_in_memory)
                for name, value in options.items()
            },
        )
        return self._take(model, stack.layout, W.compute() if stack.is_in_memory else W)

    def fit_transform(
        self, obj: Any, sample_dims: str | tuple[str, ...] = ("y", "x"), **options: Any
    ) -> xr.DataArray:
        """Fit the model and return `abundance`; parameters as for `fit`."""
        return self.fit(obj, sample_dims, **options).abundance

    def transform(self, obj: Any, mask: Any = None) -> xr.DataArray:
        """The abundances of another scene for the fitted endmembers.

        Parameters
        ----------
        obj : as for `fit`
            With the sample dims and the features of the stack that the model was fitted to.
        mask : xarray.DataArray of bool, optional

        Returns
        -------
        abundance : xarray.DataArray
            Lazy where the scene is not in memory; computing it reads the scene once.

        Raises
        ------
        ValueError
            If its features are others.
        """
        layout = self._fitted()
        stack = self._stack(obj, layout.sample_dims, mask)
        if stack.layout.feature_dims != layout.feature_dims:
            raise ValueError(
                f"the scene has the features {list(stack.layout.feature_dims)} and the model "
                f"{list(layout.feature_dims)}; columns of V go in this order: transpose, rename or select."
            )
        W = self.model_.transform(stack)
        W = W.compute() if stack.is_in_memory else W
        return arrays.abundance(W, stack.layout, len(self.endmember))

    def inverse_transform(self, abundance: xr.DataArray) -> xr.DataArray | xr.Dataset:
        """WH like the stack that the model was fitted to, in every entry, observed or not.

        Parameters
        ----------
        abundance : xarray.DataArray
            Of this model, or of `transform`.

        Returns
        -------
        stack : xarray.DataArray or xarray.Dataset
            Lazy where the abundances are. In the units of V: scale and offset are applied.
        """
        return arrays.reconstruction(abundance, self.endmember, self._fitted())

    def to_dataset(self) -> xr.Dataset:
        """All of the fit as one dataset.

        Returns
        -------
        dataset : xarray.Dataset
            `abundance`, `endmember`; `loss`, `seconds`, `bytes_read`, `reads` and the other columns of the
            history over a dim ``pass``, and `holdout`, the loss of hidden entries, where some were; all
            coordinates of the stack; parameters as JSON in the attrs.
        """
        layout = self._fitted()
        return dataset.dataset_of(self.model_, self.get_params(), layout, self.abundance, self.endmember)

    @classmethod
    def from_run(cls, run: Any) -> StackNMF:
        """The model of a checkpoint, whether its fit has finished or not.

        A value that was given as `missing_values` is not kept in a run: `set_params` before `transform`.

        Parameters
        ----------
        run : Run, or the path, URL or Zarr store of one

        Raises
        ------
        RunMismatchError
            If the run is one of a plain matrix.
        """
        run = run if isinstance(run, Run) else open_run(run)
        if run.layout is None:
            raise RunMismatchError(
                f"the run at {str(run.store)!r} is one of a matrix of shape {run.shape}, whose rows have no "
                "place in an image: give NMF.from_run."
            )
        fitted = NMF.from_run(run)
        fitted.set_params(missing_values="error")  # what is missing is for the stack of a transform to say
        parameters = {name: value for name, value in fitted.get_params().items() if name != "missing_values"}
        negatives = None if run.identity.entries is None else run.identity.entries.negatives
        return cls(negatives=negatives or "error", **parameters)._take(fitted, run.layout, run.W)

    def _given(self) -> dict[str, Any]:
        """The parameters that are not NMF's defaults."""
        defaults = {**NMF().get_params(), "negatives": "error", "missing_values": "auto"}
        found = {**self._parameters, **{name: getattr(self, name) for name in _OWN}}
        return {name: value for name, value in found.items() if repr(value) != repr(defaults[name])}

    def _stack(self, obj: Any, sample_dims: Any, mask: Any) -> Stack:
        if isinstance(obj, Stack):
            if mask is not None:
                raise ValueError(
                    "mask is given beside a Stack, which has its own: give it to Stack(mask=...)."
                )
            return obj
        obj = open_stack(obj) if isinstance(obj, (str, os.PathLike)) else obj
        return Stack(obj, sample_dims, mask, self.missing_values, self.negatives)

    def _take(self, model: NMF, layout: Layout, W: Any) -> StackNMF:
        self.model_, self.layout = model, layout
        self.abundance = arrays.abundance(W, layout, model.n_components_)
        self.endmember = arrays.endmember(np.asarray(model.components_), layout)
        return self

    def _fitted(self) -> Layout:
        if not hasattr(self, "layout"):
            raise NotFittedError("This StackNMF instance is not fitted yet: call fit with a stack first.")
        return self.layout
