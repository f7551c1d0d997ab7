"""The format of a run's records: a struct for each record, with the bounds of its values in the types.

A run store may be untrusted. `records` decodes all that is read to these structs: unknown fields are refused,
names cannot be paths, and numbers are no larger than those that this package writes.
"""

from __future__ import annotations

from math import prod
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import asdict

from dasknmf.core import history

FORMAT = 4
"""Number of the format of runs, in the root of each store; a run of another format is refused."""

MOST_MODELS = 2**16
"""Models of one run: a sweep has hundreds, and each costs a state in memory."""
MOST_PANELS = 2**20
"""Panels of one run: with 128 MiB of V in each, 128 TiB of V."""
MOST_COMPONENTS = 2**20
MOST_LENGTH = 2**48
"""Length of an axis, and largest count: sums, and products with the size of an entry, stay in 64 bits."""
_MOST_TILES = 2**22
"""Tiles of a stack: the edges of all tiles are in memory at once."""

Count = Annotated[int, Meta(ge=0, le=MOST_LENGTH)]
Length = Annotated[int, Meta(ge=1, le=MOST_LENGTH)]
Bytes = Annotated[int, Meta(ge=0, le=2**62)]
ModelNumber = Annotated[int, Meta(ge=0, le=MOST_MODELS)]
ModelCount = Annotated[int, Meta(ge=1, le=MOST_MODELS)]
Components = Annotated[int, Meta(ge=1, le=MOST_COMPONENTS)]
Shape = Annotated[tuple[Count, ...], Meta(max_length=8)]
Text = Annotated[str, Meta(max_length=2**16)]
Token = Annotated[str, Meta(pattern=r"\A[0-9a-zA-Z_]{1,64}\Z")]
"""Identifies the client that wrote something."""
_PASS = r"[0-9]{1,12}-[0-9a-zA-Z_]{1,64}(-[0-9]{1,6})?"
PassName = Annotated[str, Meta(pattern=rf"\A{_PASS}\Z")]
"""``<pass>-<writer_id>``, with the part of the pass where there are several; without separators."""
PassNameOrNone = Annotated[str, Meta(pattern=rf"\A({_PASS})?\Z")]
"""Empty before the first pass."""
ArrayName = Annotated[str, Meta(pattern=r"\A[0-9a-zA-Z_]{1,64}(-[0-9a-f]{1,32})?\Z")]
"""Name of an array below a record; without separators and dots it cannot leave the folder of the record."""
NumericDtype = Annotated[str, Meta(pattern=r"\A[<>|=]?(b1|[iu][1248]|f[248])\Z")]
_COORDINATE = r"(b1|[iu][1248]|f[248]|[mM]8(\[[0-9]{0,9}[a-zA-Zμ]{1,2}\])?|U[0-9]{1,6})"
CoordinateDtype = Annotated[str, Meta(pattern=rf"\A[<>|=]?{_COORDINATE}\Z")]
AnyDtype = Annotated[
    str, Meta(pattern=r"\A([<>|=]?[a-zA-Z][0-9]{0,6}|bool|u?int[0-9]{1,2}|float[0-9]{1,2})\Z")
]
Ending = Literal["converged", "max_iter"]


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all records."""


class Parameters(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The parameters of `NMF`, with every choice decided; None: without effect on this fit."""

    n_components: Components
    init: Text
    solver: Text
    beta_loss: float
    random_state: int | None = None
    """As given; None also for a generator."""
    alpha_W: float
    alpha_H: float | Text
    l1_ratio: float
    shuffle: bool
    inner_iter: int | Text
    n_init: ModelCount | None = None
    halving: bool | None = None
    sample_bytes: int | None = None
    X_in_memory: bool | None = None
    """For losses other than Frobenius: decides the number of steps on W between two reads."""
    fixed_components: Text | None = None
    """Digest."""
    sum_to_one: bool | None = None
    perturbation: dict[Text, Any] | None = None
    W: Text | None = None
    """Digest of a custom start."""
    H: Text | None = None


class Preparation(Record, frozen=True):
    """Preparation steps of X at every read; arrays as digests."""

    scale: Text | None
    target_sum: float | None = None
    log1p: bool = False
    columns: Text | None = None
    before: Preparation | None = None
    """The preparation of X itself."""


class Geometry(Record, frozen=True):
    """Names and lengths of the dims of a stack of images."""

    samples: dict[Text, Length]
    features: dict[Text, Length]


class Entries(Record, frozen=True, omit_defaults=True):
    """How stored values are read; a str is a digest of one value for each feature."""

    nan: Literal["missing"] | None = None
    nodata: Text | float | None = None
    scale: Text | float | None = None
    offset: Text | float | None = None
    negatives: Text | None = None
    holdout: float | None = None
    """The share of hidden entries."""


class Many(Record, frozen=True, omit_defaults=True):
    """The factorizations of a sweep or a consensus."""

    ranks: Annotated[tuple[Components, ...], Meta(min_length=1, max_length=MOST_MODELS)]
    n_init: ModelCount
    method: Literal["restarts", "nmfk", "consensus"] | None = None
    """Method of a sweep; None for a consensus of one rank."""
    consensus: bool = False


class Identity(Record, frozen=True, omit_defaults=True):
    """The values that determine a fit and must match when a run is resumed; arrays as digests."""

    shape: tuple[Length, Length]
    """n_samples and n_features, as the user sees them."""
    dtype: Annotated[str, Meta(pattern=r"\A[<>]f[48]\Z")]
    """Dtype of W, H and the products."""
    transposed: bool
    """Whether V is Xᵀ, with the roles of W and H exchanged."""
    seed: Annotated[int, Meta(ge=-(2**63))]
    model: Parameters
    feature_names: Text | None = None
    preparation: Preparation | None = None
    layout: Geometry | None = None
    entries: Entries | None = None
    feature_weight: Text | None = None
    sample_weight: Text | None = None
    weights: Text | None = None
    mask: Text | None = None
    many: Many | None = None

    def __post_init__(self) -> None:
        if self.n_models > MOST_MODELS:
            raise ValueError(f"a run has at most {MOST_MODELS} models, and this one {self.n_models}")

    @property
    def n_models(self) -> int:
        """Number of models of the run, dropped ones included."""
        if self.many is None:
            return self.model.n_init or 1
        return len(self.many.ranks) * self.many.n_init

    @property
    def n_rows(self) -> int:
        """Rows of V as it is read."""
        return self.shape[int(self.transposed)]

    @property
    def n_columns(self) -> int:
        """Columns of V as it is read, and so of H."""
        return self.shape[1 - int(self.transposed)]


class Budget(Record, frozen=True):
    """The values that may change when a run is resumed."""

    max_iter: Count
    tol: float


class Problem(Record, frozen=True):
    """``run``: one fit with every choice decided, as plain values."""

    identity: Identity
    budget: Budget
    environment: dict[Text, Text]
    """Versions of libraries."""


class Achieved(Record, frozen=True, kw_only=True):
    """Loss and objective of a model in a pass; see `history.Record`."""

    iteration: Count
    phase: Text
    loss: float | None
    objective: float | None
    loss_at: Literal["end", "entry", "solved"] | None
    measures: dict[Text, float]

    def __post_init__(self) -> None:
        if self.phase == "exact" and (self.loss is None or self.loss_at is None):
            raise ValueError("an exact pass has a loss")
        hidden = self.measures.get("hidden", 0)
        if not (0 <= hidden <= MOST_LENGTH and hidden == int(hidden)):
            raise ValueError("measures.hidden must be a whole number")


class ModelAchieved(Achieved, frozen=True, kw_only=True):
    """Loss and objective of one of several models in a pass."""

    model: ModelNumber


class PassRecord(Achieved, frozen=True, kw_only=True):
    """``history/<pass>-<writer_id>``: loss, time and bytes of a pass."""

    change: float | None
    seconds: float
    bytes_read: Bytes
    bytes_written: Bytes
    reads: float
    memory: Bytes | None = None
    models: Annotated[tuple[ModelAchieved, ...], Meta(max_length=MOST_MODELS)] = ()
    retries: Count = 0

    @property
    def has_violation(self) -> bool:
        """Whether the exact pass has the violation that scikit-learn's stop rule for "cd" compares."""
        # The record of several models has the measures of the best model, which may be an evaluation's.
        exact = (each for each in self.models or (self,) if each.phase == "exact")
        return all("violation" in each.measures for each in exact)

    def record(self) -> history.Record:
        """The record of the history."""
        models = tuple(history.ModelRecord(**asdict(each)) for each in self.models)
        return history.Record(**asdict(self) | {"models": models})


class Plan(Record, frozen=True):
    """``plan``: storage of V, and memory (bytes) and processes of the passes of this start."""

    stored_dtype: AnyDtype
    stored_bytes: Bytes
    sparse: bool
    panels: Annotated[int, Meta(ge=0, le=MOST_PANELS)]
    scheduler: Text
    processes: Count
    threads: Count
    memory_limit: Bytes
    memory_projected: Bytes


class FeatureNames(Record, frozen=True):
    """``features``: names of the features; None where they exceed 16 MiB."""

    names: Annotated[tuple[Text, ...], Meta(max_length=2**24)] | None


Dims = Annotated[tuple[Text, ...], Meta(max_length=8)]
Attrs = dict[Text, Any]


class StackRecord(Record, frozen=True):
    """A `Layout` without its coordinates."""

    sample_dims: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=8)]
    tiles: Annotated[
        tuple[Annotated[tuple[Length, ...], Meta(min_length=1, max_length=_MOST_TILES)], ...],
        Meta(min_length=1, max_length=8),
    ]
    feature_dims: Dims
    feature_shape: Annotated[tuple[Length, ...], Meta(max_length=8)]
    dims: Annotated[tuple[Text, ...], Meta(max_length=16)]
    name: Text | None
    attrs: Attrs
    variables: dict[Text, Attrs] | None

    def __post_init__(self) -> None:
        for dims, lengths in ((self.sample_dims, self.tiles), (self.feature_dims, self.feature_shape)):
            if len(dims) != len(lengths) or len(set(dims)) != len(dims):
                raise ValueError(f"there must be lengths for each of the dims {list(dims)}")
        if prod(map(len, self.tiles)) > _MOST_TILES:
            raise ValueError(f"a stack has at most {_MOST_TILES} tiles")


class CoordinateRecord(Record, frozen=True, omit_defaults=True):
    """A coordinate of a stack: its values, if they are text, or the array that holds their bits."""

    dims: Annotated[tuple[Text, ...], Meta(max_length=16)]
    shape: Shape
    dtype: CoordinateDtype
    attrs: Attrs
    values: Annotated[list[Text], Meta(max_length=2**24)] | None = None
    array: Annotated[str, Meta(pattern=r"\Alayout/[0-9]{1,6}\Z")] | None = None

    def __post_init__(self) -> None:
        if (self.values is None) == (self.array is None):
            raise ValueError("a coordinate has either values or an array")
        if (self.values is not None) != ("U" in self.dtype):
            raise ValueError("a coordinate has values if they are text, and else an array")
        if self.values is not None and prod(self.shape) != len(self.values):
            raise ValueError(f"a coordinate of shape {list(self.shape)} has {prod(self.shape)} values")


class LayoutRecord(Record, frozen=True):
    """``layout``: where rows and columns lie in a stack of images."""

    layout: StackRecord
    coords: dict[Text, CoordinateRecord]

    def __post_init__(self) -> None:
        one = self.layout
        long = dict(zip(one.sample_dims, map(sum, one.tiles), strict=True))
        long |= dict(zip(one.feature_dims, one.feature_shape, strict=True))
        for name, coord in self.coords.items():
            known = tuple(long.get(dim, own) for dim, own in zip(coord.dims, coord.shape, strict=False))
            if len(coord.dims) != len(coord.shape) or known != coord.shape:
                raise ValueError(
                    f"coords.{name[:60]!r} must be as long as its dims, {known}, and not {coord.shape}"
                )


class Placed(Record, frozen=True):
    """An array of a state: its place among the bytes beside the record."""

    dtype: NumericDtype
    shape: Shape
    at: Count


class ModelState(Record, frozen=True):
    """The state of one model, by name."""

    kind: Text
    """Name of the class of the state."""
    numbers: dict[Text, bool | int | float]
    placed: dict[Text, Placed]


class States(Record, frozen=True):
    """``small/<pass>-<writer_id>/<first model>``: states after a pass."""

    array: ArrayName
    """Beside the record: the bytes of the arrays of all states."""
    models: Annotated[tuple[ModelState, ...], Meta(max_length=MOST_MODELS)]


class Findings(Record, frozen=True, omit_defaults=True):
    """Results of a sweep or a consensus; each has some of these."""

    n_asked: Count
    rule: Literal["holdout", "silhouette", "stability", "cophenetic", "dispersion"] | None = None
    best: Components | None = None
    n_components: Components | None = None
    n_init: ModelCount | None = None
    n_reads: float | None = None
    silhouette: float | None = None
    consensus_loss: float | None = None
    density_threshold: int | float | None = None
    local_neighborhood_size: float | None = None


class FindingsRecord(Record, frozen=True):
    """``selection/record``: findings about the models after `passes` passes."""

    content: Findings
    arrays: dict[ArrayName, AnyDtype]
    """Dtypes of the arrays beside the record."""
    passes: Count


class Holder(Struct, frozen=True):
    """``lock``: the process that writes the run."""

    token: Annotated[str, Meta(pattern=r"\A[0-9a-f]{1,64}\Z")]
    host: Text
    pid: Annotated[int, Meta(ge=0, le=2**31 - 1)]
    started: float
    time: float
    """Time of the last renewal, seconds since the epoch by the clock of `host`."""
