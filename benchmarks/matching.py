"""The agreement of two factorizations of one rank."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from dasknmf.selection.matching import unit_rows


def matched_cosines(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Cosines of the one-to-one matching of the rows of two H that has the largest sum of cosines.

    Parameters
    ----------
    A, B : ndarray of shape (n_components, n_features)

    Returns
    -------
    ndarray of shape (n_components,)
        In the order of the rows of `A`; 0 for a row of zeros.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    first, second = unit_rows(np.asarray([A, B], np.float64))
    cosines = first @ second.T
    return cosines[linear_sum_assignment(cosines, maximize=True)]
