"""Exact nonnegative least squares by rows: block principal pivoting.

For one row, min ½ w S wᵀ − n wᵀ + l1 Σw over w ≥ 0 is solved by finding which entries are zero. With
F the others, the optimality conditions are [1]_::

    S_FF w_F = n_F − l1,   w_F ≥ 0
    y_G = S_GF w_F − n_G + l1 ≥ 0

All entries that violate them are exchanged together, as long as their number falls (with at most three
exchanges without a fall), and then only the one with the largest index, which ends in finitely many steps.

A round costs a Cholesky factorization, |F|³/6, and a sweep of coordinate descent only k²: a few sweeps
first guess F, and one or two rounds then complete and certify it. 64 rows are factorized side by side, each
with its own F, packed to the front and padded with zeros, which change no bit of a sum; the lane of a
finished row is given to the next row.

S is first scaled to a unit diagonal, with w_t √S_tt for w_t, so that one tolerance suits components of any
size; if each row has its own S, it is scaled when the row enters its lane. An entry whose pivot is lost in
rounding is collinear with those before it and stays at zero.

For a singular S the rounds may not end. Rows without a certificate take proximal steps [2]_,
min f(w') + ½ δ Σ S_tt (w'_t − w_t)² from w: each step has a certificate and none raises f; they converge to
a minimum.

References
----------
.. [1] Kim, J., & Park, H. (2011). Fast nonnegative matrix factorization: an active-set-like method
   and comparisons. SIAM Journal on Scientific Computing, 33(6).
.. [2] Rockafellar, R. T. (1976). Monotone operators and the proximal point algorithm. SIAM Journal on
   Control and Optimization, 14(5).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dasknmf.core.kernel import inlined, kernel
from dasknmf.core.solvers import cd
from dasknmf.core.solvers.inner_steps import Steps
from dasknmf.core.solvers.lanes import LANES, add_product, at, subtract_product
from dasknmf.core.solvers.packed_grams import Packed, add_to_diagonals

_CHANCES = 3
_TOLERANCE = 1e-12
"""Tolerance of violations of optimality, in units of the row's largest target."""
_COLLINEAR = 1e-13
"""A pivot below this share of its diagonal entry counts as a rounding error."""
_COLLINEAR_32 = 2e-6
"""The same where the Gram matrices were summed in float32: some of its units in the last place."""
_PROXIMAL_WEIGHT, _PROXIMAL_WEIGHT_32 = 1e-6, 1e-4
"""δ of the proximal steps: far above the rounding of S, so that they have certificates."""
_STEPS = 20
_WARM_SWEEPS = 2


def scratch_bytes(k: int, *, packed: bool = False) -> int:
    """Bytes of the buffers of one call, most of them for the Cholesky factors of 64 rows.

    With `packed`, each row has its own S, and there are buffers for the matrices of 64 rows too.
    """
    own = (k + 1) ** 2 + k if packed else 0
    return 8 * LANES * (k * k + 8 * k + own)


def solve(W: np.ndarray, N: np.ndarray, S: np.ndarray | Packed, l1: float) -> None:
    """Replace the rows of W by the exact minimisers, computed in float64 for any dtype.

    The objective of a row never rises, and the bits of a row do not depend on the other rows. An entry on
    which the objective does not depend (S_tt = 0, no l1) is not changed.

    Parameters
    ----------
    W : ndarray of shape (n_rows, n_components)
        The start: F is first the set of positive entries; for a row of zeros it is guessed.
    N : ndarray of shape (n_rows, n_components)
        The cross product V Hᵀ.
    S : ndarray of shape (n_components, n_components), float64, or Packed
        H Hᵀ with l2 on its diagonal, for all rows or for each row. A row whose S is not finite becomes NaN.
        In float32 S is taken as rounded: components that differ only in further digits are collinear.
    l1 : float
    """
    if isinstance(S, Packed):
        finite = np.isfinite(S.lines).all(axis=1)
        if not finite.all():
            solved = W[finite]
            solve(solved, N[finite], S.at(np.flatnonzero(finite)), l1)
            W[finite] = solved
            W[~finite] = np.nan  # out of range: `finite` in `core.phase` raises an error
            return
    elif not np.isfinite(S).all():
        W[...] = np.nan
        return
    k = W.shape[1]
    order = np.arange(k)
    warm = (W > 0).any(axis=1)
    narrow = S if isinstance(S, Packed) else S.astype(W.dtype)
    for some, sweeps in ((warm, _WARM_SWEEPS), (~warm, 5 + k // 5)):
        rows = np.flatnonzero(some)
        guess = W[rows]
        own = S.at(rows) if isinstance(S, Packed) and len(rows) < len(W) else narrow
        cd.move(guess, N[rows], own, Steps(l1, order, sweeps))
        W[rows] = guess
    single = isinstance(S, Packed) and S.lines.dtype == np.float32
    certified = _certified(W, N, S, l1, _COLLINEAR_32 if single else _COLLINEAR)
    left = np.flatnonzero(~certified)
    not_finite = ~np.isfinite(N[left]).all(axis=1)
    W[left[not_finite]] = np.nan
    left = left[~not_finite]
    delta = _PROXIMAL_WEIGHT_32 if single else _PROXIMAL_WEIGHT
    while left.size and delta <= 1:
        own = S.at(left) if isinstance(S, Packed) else S
        W[left], stuck = _proximal_steps(W[left], N[left], own, l1, delta)
        left = left[stuck]
        delta *= 100


def move(W: np.ndarray, N: np.ndarray, S: np.ndarray | Packed, steps: Steps) -> float:
    """The step of solver ``"bpp"``, by `solve`; returns 0, as the violation is not measured."""
    solve(W, N, S, steps.l1)
    return 0.0


def _certified(W: np.ndarray, N: np.ndarray, S: np.ndarray | Packed, l1: float, lost: float) -> np.ndarray:
    """Whether each row's minimiser is certified; certified minimisers replace rows of W."""
    k = W.shape[1]
    # A further row and column of zeros, for the padding of packed sets.
    if isinstance(S, Packed):
        buffer = np.zeros((k + 1, k + 1, LANES))
        return _solve_rows(W, N, S.lines, (buffer, np.zeros((k, LANES))), l1, lost)
    norms = np.sqrt(S.diagonal())
    units = np.divide(1.0, norms, out=np.zeros(k), where=norms > 0)
    unit_S = np.zeros((k + 1, k + 1))
    unit_S[:k, :k] = S * units * units[:, None]
    return _solve_rows(W, N, None, (unit_S, units), l1, lost)


def _proximal_steps(
    W: np.ndarray, N: np.ndarray, S: np.ndarray | Packed, l1: float, delta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of W after proximal steps, and whether a step of a row has no certificate."""
    W = W.astype(np.float64)
    if isinstance(S, Packed):
        pulls = delta * S.diagonals.astype(np.float64)
        lines = S.lines.astype(np.float64)
        add_to_diagonals(lines, pulls)
        S = Packed(lines)
    else:
        pulls = np.broadcast_to(delta * S.diagonal(), W.shape)
        S = S + np.diag(pulls[0])
    stuck = np.zeros(len(W), np.bool_)
    going = np.arange(len(W))
    for _ in range(_STEPS):
        before, proximal_weight = W[going], pulls[going]
        there = before.copy()
        own = S.at(going) if isinstance(S, Packed) else S
        certified = _certified(there, N[going] + proximal_weight * before, own, l1, _COLLINEAR)
        W[going] = there
        stuck[going] = ~certified
        size = np.abs(N[going] - l1).max(axis=1, keepdims=True)
        going = going[certified & (proximal_weight * np.abs(there - before) > _TOLERANCE * size).any(axis=1)]
        if not going.size:
            break
    return W, stuck


class _Search(NamedTuple):
    """The search for the zeros of 64 rows, one in each lane."""

    row: np.ndarray
    """Number of the row in a lane; -1: none."""
    target: np.ndarray
    limit: np.ndarray
    """Numbers below this are negative by more than rounding."""
    passive: np.ndarray
    """Whether an entry is in F."""
    w: np.ndarray
    y: np.ndarray
    wrong: np.ndarray
    """Whether an entry violates the optimality conditions."""
    n_wrong: np.ndarray
    """Number of entries that are wrong."""
    first: np.ndarray
    """Index from which on all wrong entries are exchanged: 0, or the largest index of a wrong entry."""
    least: np.ndarray
    chances: np.ndarray
    rounds: np.ndarray


@kernel
def _solve_rows(
    W: np.ndarray,
    N: np.ndarray,
    lines: np.ndarray | None,
    scaled: tuple[np.ndarray, np.ndarray],
    l1: float,
    lost: float,
) -> np.ndarray:
    """Whether each row is certified; `scaled` is S and units of all rows, or their buffers for each lane."""
    n_rows, k = W.shape
    S, units = scaled
    certified = np.zeros(n_rows, np.bool_)
    factors = (np.zeros((k, LANES)), np.zeros((k, k, LANES)), np.zeros((k, LANES)), np.zeros(LANES))
    packed = np.zeros((k + 1, LANES), np.uintp)
    size = np.zeros(LANES, np.uintp)
    search = _Search(
        row=np.full(LANES, -1),
        target=np.zeros((k + 1, LANES)),
        limit=np.zeros(LANES),
        passive=np.zeros((k, LANES), np.bool_),
        w=np.zeros((k + 1, LANES)),
        y=np.zeros((k, LANES)),
        wrong=np.zeros((k, LANES), np.bool_),
        n_wrong=np.zeros(LANES, np.int64),
        first=np.zeros(LANES, np.int64),
        least=np.zeros(LANES, np.int64),
        chances=np.zeros(LANES, np.int64),
        rounds=np.zeros(LANES, np.int64),
    )
    row, first, least, chances = search.row, search.first, search.least, search.chances
    coming = 0
    done = 0
    while done < n_rows:
        for lane in range(LANES):
            if row[lane] >= 0 or coming == n_rows:
                continue
            row[lane] = coming
            if lines is not None:
                _load_scaled(S, units, lines[coming], lane)
            _begin_row(search, W[coming], N[coming], units, l1, lane)
            coming += 1
        most = _pack(packed, size, search.passive)
        _factorized(factors, S, search.target, packed, most, lost)
        _unpack(search.w, factors[0], packed, most)
        _find_violations(search, S)
        for lane in range(LANES):
            if row[lane] < 0:
                continue
            search.rounds[lane] += 1
            if search.n_wrong[lane] == 0 or search.rounds[lane] == 20 * k + 20:
                certified[row[lane]] = _end_row(search, W[row[lane]], scaled, l1, lane)
                row[lane] = -1
                first[lane] = k
                done += 1
            elif search.n_wrong[lane] < least[lane]:
                least[lane] = search.n_wrong[lane]
                chances[lane] = _CHANCES
                first[lane] = 0
            elif chances[lane] > 0:
                chances[lane] -= 1
                first[lane] = 0
        for t in range(k):
            for lane in range(LANES):
                search.passive[t, lane] ^= search.wrong[t, lane] and first[lane] <= t
    return certified


@inlined
def _begin_row(
    search: _Search, entered: np.ndarray, cross: np.ndarray, units: np.ndarray, l1: float, lane: int
) -> None:
    """Begin the search for a row of W, whose row of N is `cross`, in a lane."""
    k = len(entered)
    scale = 0.0
    for t in range(k):
        unit = at(units[t], lane)
        search.target[t, lane] = (np.float64(cross[t]) - l1) * unit
        scale = max(scale, abs(search.target[t, lane]))
        search.passive[t, lane] = entered[t] > 0 and unit > 0
    search.limit[lane] = -_TOLERANCE * scale
    search.least[lane] = k + 1
    search.chances[lane] = _CHANCES
    search.rounds[lane] = 0


@inlined
def _find_violations(search: _Search, S: np.ndarray) -> None:
    """The gradients y of all lanes, and the entries that violate the optimality conditions."""
    w, y = search.w, search.y
    k = len(y)
    for lane in range(LANES):
        search.n_wrong[lane] = 0
        search.first[lane] = k
    for t in range(k):
        for lane in range(LANES):
            y[t, lane] = -search.target[t, lane]
        add_product(y[t], S[t, :k], w)
        for lane in range(LANES):
            bad = (w[t, lane] if search.passive[t, lane] else y[t, lane]) < search.limit[lane]
            search.wrong[t, lane] = bad
            search.n_wrong[lane] += bad
            search.first[lane] = t if bad else search.first[lane]


@inlined
def _end_row(
    search: _Search, entered: np.ndarray, scaled: tuple[np.ndarray, np.ndarray], l1: float, lane: int
) -> bool:
    """End the search of a lane and write its solution to W unless it is worse; whether it is certified."""
    units = scaled[1]
    k = len(entered)
    sure = search.n_wrong[lane] == 0
    # An entry that is zero because of a lost pivot needs a nonnegative gradient as well.
    for t in range(k):
        sure = sure and (search.w[t, lane] > 0.0 or search.y[t, lane] >= search.limit[lane])
    if sure or (search.n_wrong[lane] == 0 and not _is_worse(search, entered, scaled, lane)):
        for t in range(k):
            unit = at(units[t], lane)
            value = 0.0 if search.w[t, lane] < 0.0 else search.w[t, lane] * unit
            # An entry on which the objective does not depend keeps its value.
            if unit > 0 or l1 > 0:
                entered[t] = value
    for t in range(k):
        search.passive[t, lane] = False
    return sure


@inlined
def _load_scaled(S: np.ndarray, units: np.ndarray, line: np.ndarray, lane: int) -> None:
    """A row's own S scaled to a unit diagonal, in its lane."""
    k = len(units)
    here = 0
    for t in range(k):
        norm = np.sqrt(np.float64(line[here]))
        units[t, lane] = 1.0 / norm if norm > 0 else 0.0
        here += k - t
    here = 0
    for t in range(k):
        for r in range(t, k):
            share = np.float64(line[here]) * units[t, lane] * units[r, lane]
            S[t, r, lane] = share
            S[r, t, lane] = share
            here += 1


@inlined
def _pack(packed: np.ndarray, size: np.ndarray, passive: np.ndarray) -> int:
    """Write the indices of each lane's passive set, padded with k; the length of the longest set."""
    k = len(passive)
    for lane in range(LANES):
        size[lane] = 0
    for t in range(k):
        for lane in range(LANES):
            packed[size[lane], lane] = t
            size[lane] += np.uintp(passive[t, lane])
    most = 0
    for lane in range(LANES):
        most = int(max(most, size[lane]))
    for i in range(most):
        for lane in range(LANES):
            packed[i, lane] = packed[i, lane] if i < size[lane] else k
    return most


@inlined
def _unpack(w: np.ndarray, x: np.ndarray, packed: np.ndarray, most: int) -> None:
    """w with x in the passive set of each lane, and zeros elsewhere."""
    for t in range(len(w) - 1):
        for lane in range(LANES):
            w[t, lane] = 0.0
    for i in range(most):
        for lane in range(LANES):
            w[packed[i, lane], lane] = x[i, lane]


@inlined
def _factorized(
    factors: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    S: np.ndarray,
    target: np.ndarray,
    packed: np.ndarray,
    most: int,
    lost: float,
) -> None:
    """x with S_FF x = target_F in every lane, by L Lᵀ.

    `factors`: x, L, the inverse diagonal 1 / L_ii, which is 0 where a pivot is lost, and a line of lanes.
    """
    x, L, inverse, g = factors
    for i in range(most):
        for j in range(i):
            for lane in range(LANES):
                g[lane] = at(S[packed[i, lane], packed[j, lane]], lane)
            subtract_product(g, L[i], L[j], j)
            for lane in range(LANES):
                L[i, j, lane] = g[lane] * inverse[j, lane]
        for lane in range(LANES):
            g[lane] = at(S[packed[i, lane], packed[i, lane]], lane)
        subtract_product(g, L[i], L[i], i)
        for lane in range(LANES):
            inverse[i, lane] = 1.0 / np.sqrt(g[lane]) if g[lane] > lost else 0.0
        for lane in range(LANES):
            g[lane] = target[packed[i, lane], lane]
        subtract_product(g, L[i], x, i)
        for lane in range(LANES):
            x[i, lane] = g[lane] * inverse[i, lane]
    for i in range(most - 1, -1, -1):
        for lane in range(LANES):
            x[i, lane] *= inverse[i, lane]
        # Line by line, not as one sum, so that the length of the padding does not change the order of terms.
        for p in range(i):
            for lane in range(LANES):
                x[p, lane] -= L[i, p, lane] * x[i, lane]


@inlined
def _is_worse(search: _Search, entered: np.ndarray, scaled: tuple[np.ndarray, np.ndarray], lane: int) -> bool:
    """Whether a lane's solution has a larger objective than the row at the start, as after lost pivots."""
    S, units = scaled
    target = search.target
    k = len(entered)
    before = 0.0
    after = 0.0
    for t in range(k):
        slope = -2.0 * target[t, lane]
        for r in range(k):
            unit = at(units[r], lane)
            slope += at(S[t, r], lane) * (np.float64(entered[r]) / unit if unit > 0 else 0.0)
        unit = at(units[t], lane)
        before += (np.float64(entered[t]) / unit if unit > 0 else 0.0) * slope
        after += search.w[t, lane] * (search.y[t, lane] - target[t, lane])
    return after > before
