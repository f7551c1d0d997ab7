"""States: small arrays and numbers that a pass gives to the next pass, a class for each family of phases.

Every class has the results of the survey and adds the results of its phases. A run stores states as named
numbers and arrays; `State.named` and `from_named` convert by the annotations of fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

import numpy as np

from dasknmf.errors import RunDamagedError

Array1 = Annotated[np.ndarray, 1]
Array2 = Annotated[np.ndarray, 2]
"""Arrays of one and of two dimensions."""
Named = np.ndarray | float
"""The value of a field: an array or a number (also int or bool)."""


def _nothing() -> np.ndarray:
    return np.zeros(0)


KINDS: dict[str, type[State]] = {}
"""Classes of states by `kind`, the name in a stored run."""


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Facts about V that the survey measures; zeros before the survey.

    Parameters
    ----------
    sums : ndarray of shape (9,), float64
        Sums and counts over V: `dasknmf.core.starts.survey.FIELDS`.
    mean : float
        Mean of the observed entries.
    squares : float
        Σ v², weighted.
    constant : float
        The part of the divergence that depends on V alone.
    scale : float
        Σ v^β, the order of magnitude of the divergence of a bad fit.
    eps, tiny : float
        Lower bounds of entries of WH, in units of V, and of the factors, in units of √V.
    sum_to_one_weight : float
        Weight δ² of the penalty that draws sums of rows of W to one.
    observed : ndarray of shape (n_features,), float64, or None
        Weight of the observed entries of each column; None if V has no mask.
    fill : ndarray of shape (n_features,), float64, or (0,)
        Mean of the observed entries of each column, if V has a mask.
    empty_rows : int
        Number of rows without observed entries.
    hidden_rows, hidden_columns : int
        Numbers of rows and columns whose observed entries are all hidden.
    """

    kind: ClassVar[str] = "survey"

    sums: Array1 = field(default_factory=_nothing)
    mean: float = 0.0
    squares: float = 0.0
    constant: float = 0.0
    scale: float = 0.0
    eps: float = 0.0
    tiny: float = 0.0
    sum_to_one_weight: float = 0.0
    observed: Array1 | None = None
    fill: Array1 = field(default_factory=_nothing)
    empty_rows: int = 0
    hidden_rows: int = 0
    hidden_columns: int = 0

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls):  # states without a kind of their own are not stored
            KINDS[cls.kind] = cls

    @classmethod
    def of(cls, state: State, **own: Any) -> Self:
        """A state of this class, with the fields `own`, and other fields copied from `state`."""
        shared = {each.name for each in fields(cls)} & {each.name for each in fields(state)} - own.keys()
        return cls(**{name: getattr(state, name) for name in shared}, **own)

    @classmethod
    def checked(cls, state: State) -> Self:
        """The state, after a check that it is of this class.

        Raises
        ------
        RunDamagedError
        """
        if isinstance(state, cls):
            return state
        raise RunDamagedError(
            f"the next pass needs a state of kind {cls.kind!r}, and the stored state is of kind "
            f"{state.kind!r}: restore the store from a copy, or start over with overwrite=True."
        )

    def named(self) -> dict[str, Named]:
        """The fields that are not None, by name."""
        values = ((each.name, getattr(self, each.name)) for each in fields(self))
        return {name: value for name, value in values if value is not None}

    def contiguous(self) -> Self:
        """A copy with all arrays in C order: the order of sums in BLAS depends on the memory layout."""
        arrays = {name: value for name, value in self.named().items() if isinstance(value, np.ndarray)}
        copies: dict[str, Any] = {name: np.array(value, order="C") for name, value in arrays.items()}
        return replace(self, **copies)


KINDS[State.kind] = State


@dataclass(frozen=True, kw_only=True, eq=False)
class BasisState(State):
    """An orthonormal basis of V's leading row space.

    Parameters
    ----------
    Q : ndarray of shape (n_features, width), float64
    """

    kind: ClassVar[str] = "basis"

    Q: Array2


@dataclass(frozen=True, kw_only=True, eq=False)
class ProjectionState(State):
    """Singular values and right singular vectors of V.

    Parameters
    ----------
    to_U : ndarray of shape (width, n_components), float64
        The left singular vectors are V Q `to_U`.
    S : ndarray of shape (n_components,), float64
    Vt : ndarray of shape (n_components, n_features), float64
    chosen : ndarray of shape (n_components, n_features) or None
        H fitted to the sketch.
    """

    kind: ClassVar[str] = "projection"

    to_U: Array2
    S: Array1
    Vt: Array2
    chosen: Array2 | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SingularState(State):
    """The nonnegative parts of singular vectors that a start selects.

    Parameters
    ----------
    to_U, S, chosen
        As in `ProjectionState`.
    signs, scales : ndarray of shape (n_components,), float64
        W is max(0, U ∘ signs) ∘ scales.
    start_H : ndarray of shape (n_components, n_features), V's dtype
    """

    kind: ClassVar[str] = "singular vectors"

    to_U: Array2
    S: Array1
    signs: Array1
    scales: Array1
    start_H: Array2
    chosen: Array2 | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SampleState(State):
    """Results of the fit to a sample of rows.

    Parameters
    ----------
    chosen : ndarray of shape (n_components, n_features), V's dtype
        H fitted to the sample.
    columns : ndarray of shape (n_features,), float64
        Column means of V.
    expected : float
        Mean loss of a row of the sample.
    """

    kind: ClassVar[str] = "sample"

    chosen: Array2
    columns: Array1
    expected: float


@dataclass(frozen=True, kw_only=True, eq=False)
class FactorState(State):
    """H and further results of exact passes.

    Parameters
    ----------
    H : ndarray of shape (n_components, n_features), V's dtype, or None
        H of the current pair W, H; None if there is only a `pending_H`.
    pending_H : ndarray of shape (n_components, n_features), V's dtype, or None
        A new H, for which the next pass first solves W.
    usage : ndarray of shape (n_components,), float64, or None
        Weighted sums of the columns of W.
    iteration : int
        Number of exact passes.
    residual : bool
        Whether the loss is so small that it must be summed entry by entry.
    """

    kind: ClassVar[str] = "factors"

    H: Array2 | None = None
    pending_H: Array2 | None = None
    usage: Array1 | None = None
    iteration: int = 0
    residual: bool = False

    @property
    def factor(self) -> np.ndarray:
        """H of the current pair."""
        if self.H is None:
            raise RunDamagedError(
                "the stored state has no H: restore the store from a copy, or start over with overwrite=True."
            )
        return self.H

    @property
    def entering_H(self) -> np.ndarray:
        """H at the start of the next pass: `pending_H` if there is one, else that of the current pair."""
        return self.factor if self.pending_H is None else self.pending_H

    @property
    def needs_first_W(self) -> bool:
        """Whether the next pass solves W afresh."""
        return self.pending_H is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledFactorState(FactorState):
    """A pending H with the results of its sample; see `SampleState`."""

    kind: ClassVar[str] = "sampled factors"

    columns: Array1
    expected: float


def _schema(cls: type[State]) -> dict[str, tuple[type | int, bool]]:
    """For each field: the type of a number or the dimensions of an array, and whether it may be None."""
    hints = get_type_hints(cls, include_extras=True)
    found: dict[str, tuple[type | int, bool]] = {}
    for each in fields(cls):
        hint = hints[each.name]
        optional = get_origin(hint) in (Union, UnionType)
        hint = get_args(hint)[0] if optional else hint
        found[each.name] = (get_args(hint)[1] if get_origin(hint) is Annotated else hint, optional)
    return found


def from_named(kind: str, named: Mapping[str, Named]) -> State:
    """The inverse of `State.named`.

    Raises
    ------
    ValueError
        If there is no such kind, or it has other fields; the message is to follow the words "the state".
    """
    if kind not in KINDS:
        raise ValueError(f"is of kind {kind!r}; known are {', '.join(KINDS)}")
    cls = KINDS[kind]
    schema = _schema(cls)
    missing = {name for name, (_, optional) in schema.items() if not optional} - named.keys()
    if wrong := sorted(missing | (named.keys() - schema.keys())):
        raise ValueError(f"of kind {kind!r} {'lacks' if wrong[0] in missing else 'has'} {wrong[0]!r}")
    values: dict[str, Any] = {}
    for name, value in named.items():
        expected = schema[name][0]
        ndim = expected if isinstance(expected, int) else 0
        if np.ndim(value) != ndim:
            raise ValueError(f"has {name!r} of shape {np.shape(value)}; it must have {ndim} dimensions")
        values[name] = value if isinstance(expected, int) else expected(value)
    return cls(**values)
