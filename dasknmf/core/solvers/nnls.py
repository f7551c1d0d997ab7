"""Exact nonnegative least squares by rows: block principal pivoting.

For one row, min ½ w S wᵀ − n wᵀ + l1 Σw over w ≥ 0 is solved by finding which entries are zero. With
F the others, the optimality conditions are [1]_::

    S_FF w_F = n_F − l1,   w_F ≥ 0
    y_G = S_GF w_F − n_G + l1 ≥ 0

All entries that violate them change sides at once, as long as that lowers their number (three more
chances otherwise), then only the one with the largest index, which ends in finitely many steps.

A round costs a Cholesky factorization, |F|³/6, and a sweep of coordinate descent only k²: a few
sweeps guess F first, and one round or two then finish and certify it. 64 rows are factorized side by
side, each with its own F, packed to the front and padded with zeros, which change no bit of a sum;
a row that is done hands its lane to the next one.

S is scaled to a unit diagonal first, w_t √S_tt for w_t, so that one tolerance fits components of any
size; where each row has its own S, when the row gets its lane. An entry whose pivot is lost in
rounding is collinear with those before it and rests at zero.

Where S is singular there may be no end to it. Rows without a certificate take proximal steps [2]_,
min f(w') + ½ δ Σ S_tt (w'_t − w_t)² from w: each has a certificate, none raises f, and a few come to
rest at a minimum.

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
from dasknmf.core.solvers.lanes import LANES, add_product, at, take_product
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
    """What one call holds beside its arguments, most of it the factors of the rows side by side.

    Where each row has its own S, `packed`, those are side by side as well.
    """
    own = (k + 1) ** 2 + k if packed else 0
    return 8 * LANES * (k * k + 8 * k + own)


def solve(W: np.ndarray, N: np.ndarray, S: np.ndarray | Packed, l1: float) -> None:
    """Replace the rows of W by the exact minimisers; solved in float64 whatever their dtype.

    A row's objective never rises and its bits do not depend on the other rows. An entry that the
    objective does not depend on (S_tt = 0, no l1) stays as it was.

    Parameters
    ----------
    W : ndarray of shape (n_rows, n_components)
        Its positive entries are tried first; a row of zeros is a cold start.
    N : ndarray of shape (n_rows, n_components)
        The cross product V Hᵀ.
    S : ndarray of shape (n_components, n_components), float64, or Packed
        H Hᵀ, with l2 on its diagonal: of all rows, or of each. A row whose S is not finite becomes NaN.
        Packed in float32 it is exact for what was rounded: components that only more digits tell
        apart are collinear.
    l1 : float
    """
    if isinstance(S, Packed):
        finite = np.isfinite(S.lines).all(axis=1)
        if not finite.all():
            solved = W[finite]
            solve(solved, N[finite], S.at(np.flatnonzero(finite)), l1)
            W[finite] = solved
            W[~finite] = np.nan  # out of range: refused where factors are kept
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
        own = S.at(rows) if isinstance(S, Packed) else narrow
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
    """Solver ``"bpp"``: `solve`, as a step; its violation is not measured."""
    solve(W, N, S, steps.l1)
    return 0.0


def _certified(W: np.ndarray, N: np.ndarray, S: np.ndarray | Packed, l1: float, lost: float) -> np.ndarray:
    """Whether each row's minimiser is found; those that are replace the rows of W."""
    k = W.shape[1]
    # One row and column of zeros more: where the padding of a packed set points.
    if isinstance(S, Packed):
        room = np.zeros((k + 1, k + 1, LANES))
        return _solve_rows(W, N, S.lines, (room, np.zeros((k, LANES))), l1, lost)
    norms = np.sqrt(S.diagonal())
    units = np.divide(1.0, norms, out=np.zeros(k), where=norms > 0)
    unit_S = np.zeros((k + 1, k + 1))
    unit_S[:k, :k] = S * units * units[:, None]
    return _solve_rows(W, N, None, (unit_S, units), l1, lost)


def _proximal_steps(
    W: np.ndarray, N: np.ndarray, S: np.ndarray | Packed, l1: float, delta: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rows after proximal steps from those of W, and which of them found a step without a certificate."""
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
    """Below it a number is negative by more than rounding."""
    passive: np.ndarray
    """Whether an entry is in F."""
    w: np.ndarray
    y: np.ndarray
    wrong: np.ndarray
    """Whether an entry violates the optimality conditions."""
    n_wrong: np.ndarray
    """Number of entries that are wrong."""
    first: np.ndarray
    """Index from where all entries that are wrong change sides: 0, or the largest of them."""
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
    """Whether each row is certified; `scaled` is S and units of all rows, or room for those of lines."""
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
                _scale_in(S, units, lines[coming], lane)
            _enter(search, W[coming], N[coming], units, l1, lane)
            coming += 1
        most = _pack(packed, size, search.passive)
        _factorized(factors, S, search.target, packed, most, lost)
        _unpack(search.w, factors[0], packed, most)
        _find_wrong(search, S)
        for lane in range(LANES):
            if row[lane] < 0:
                continue
            search.rounds[lane] += 1
            if search.n_wrong[lane] == 0 or search.rounds[lane] == 20 * k + 20:
                certified[row[lane]] = _leave(search, W[row[lane]], scaled, l1, lane)
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
def _enter(
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
def _find_wrong(search: _Search, S: np.ndarray) -> None:
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
def _leave(
    search: _Search, entered: np.ndarray, scaled: tuple[np.ndarray, np.ndarray], l1: float, lane: int
) -> bool:
    """End a lane's search: put its solution in W, unless that is worse; whether it is certified."""
    units = scaled[1]
    k = len(entered)
    sure = search.n_wrong[lane] == 0
    # An entry that rests at zero for its lost pivot needs a multiplier as well.
    for t in range(k):
        sure = sure and (search.w[t, lane] > 0.0 or search.y[t, lane] >= search.limit[lane])
    if sure or (search.n_wrong[lane] == 0 and not _worse(search, entered, scaled, lane)):
        for t in range(k):
            unit = at(units[t], lane)
            value = 0.0 if search.w[t, lane] < 0.0 else search.w[t, lane] * unit
            # Where nothing depends on an entry, what it was may matter later.
            if unit > 0 or l1 > 0:
                entered[t] = value
    for t in range(k):
        search.passive[t, lane] = False
    return sure


@inlined
def _scale_in(S: np.ndarray, units: np.ndarray, line: np.ndarray, lane: int) -> None:
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
    """The indices of each lane's passive set in its first lines, k after them; the longest's length."""
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
            take_product(g, L[i], L[j], j)
            for lane in range(LANES):
                L[i, j, lane] = g[lane] * inverse[j, lane]
        for lane in range(LANES):
            g[lane] = at(S[packed[i, lane], packed[i, lane]], lane)
        take_product(g, L[i], L[i], i)
        for lane in range(LANES):
            inverse[i, lane] = 1.0 / np.sqrt(g[lane]) if g[lane] > lost else 0.0
        for lane in range(LANES):
            g[lane] = target[packed[i, lane], lane]
        take_product(g, L[i], x, i)
        for lane in range(LANES):
            x[i, lane] = g[lane] * inverse[i, lane]
    for i in range(most - 1, -1, -1):
        for lane in range(LANES):
            x[i, lane] *= inverse[i, lane]
        # Line by line, not as one sum: how far the padding reaches must not regroup its terms.
        for p in range(i):
            for lane in range(LANES):
                x[p, lane] -= L[i, p, lane] * x[i, lane]


@inlined
def _worse(search: _Search, entered: np.ndarray, scaled: tuple[np.ndarray, np.ndarray], lane: int) -> bool:
    """Whether a lane's solution has a larger objective than the row that entered: after lost pivots."""
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
