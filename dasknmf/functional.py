"""The function that scikit-learn has beside the class."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from dasknmf import inputs
from dasknmf.estimator import NMF
from dasknmf.validation import check_factor


def non_negative_factorization(
    X: Any,
    W: Any = None,
    H: Any = None,
    n_components: Any = "auto",
    *,
    update_H: bool = True,
    **parameters: Any,
) -> tuple[Any, np.ndarray, int]:
    """Factorize X ≈ WH with one call; the function of the same name in scikit-learn.

    Parameters
    ----------
    X : as for `NMF.fit_transform`
    W, H : array, optional
        The start for ``init="custom"``. With ``update_H=False``, H is kept and W is solved for; a
        given W is ignored.
    n_components : int, None or "auto"
    update_H : bool
        Whether H moves.
    **parameters
        Of `NMF`.

    Returns
    -------
    W : ndarray or dask.array.Array of shape (n_samples, n_components)
    H : ndarray of shape (n_components, n_features)
    n_iter : int
        Exact passes; 1 with ``update_H=False``, which solves W in one read.
    """
    model = NMF(n_components, **parameters)
    if update_H:
        W = model.fit_transform(X, W=W, H=H)
        return W, model.components_, model.n_iter_
    model._validate_params()
    if W is not None:
        warnings.warn(
            "When update_H=False, the provided initial W is not used.", RuntimeWarning, stacklevel=2
        )
    if H is None:
        raise ValueError("update_H=False keeps H, but H is None: give H.")
    X = inputs.opened(X)
    k = model.n_components if model.n_components not in (None, "auto") else np.shape(H)[0]
    check_factor(H, (k, X.shape[1]), "NMF (input H)")
    model.n_features_in_ = int(X.shape[1])
    model.components_ = np.asarray(H)
    model.n_components_ = len(H)
    return model.transform(X), model.components_, 1
