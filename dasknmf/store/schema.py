"""The form of every record of a run: what its fields are, and how they go together."""

from __future__ import annotations

import re
from typing import Any

from dasknmf.store.json_checks import (
    ANY_DTYPE,
    ARRAY,
    COORDINATE,
    MOST_COMPONENTS,
    MOST_MODELS,
    MOST_PANELS,
    NUMERIC,
    PASS,
    SHAPE,
    TOKEN,
    Check,
    Unlike,
    boolean,
    count,
    either,
    fields,
    integer,
    items,
    like,
    mapping,
    nothing,
    number,
    one_of,
    or_none,
    plain,
    row,
    size_of,
    text,
)

FORMAT = 4
"""Of runs; of another one only the number is looked at, which tells what reads it."""

_BYTES = integer(0, 2**62)
_MODEL = integer(0, MOST_MODELS)
_COMPONENTS = integer(0, MOST_COMPONENTS)
_LENGTH = integer(1)
_ENDING = one_of(None, "converged", "max_iter")
_pass = like(PASS, "a name such as '9-3f2a', without separators")
_array = like(ARRAY, "a name of letters and digits, without separators")
_token = like(TOKEN, "letters and digits, without separators")


def _both(first: Check, second: Check) -> Check:
    def check(value: Any) -> None:
        first(value)
        second(value)

    return check


_DIMS = mapping(text, _LENGTH, most=8)
_IDENTITY = fields(
    {
        "shape": row(_LENGTH, _LENGTH),
        "dtype": one_of("<f4", "<f8", ">f4", ">f8"),
        "transposed": boolean,
        "seed": integer(-(2**63), 2**64),
        "model": fields(
            {
                "n_components": integer(1, MOST_COMPONENTS),
                "init": text,
                "solver": text,
                "beta_loss": number,
            },
            {"random_state": or_none(number), "n_init": integer(1, MOST_MODELS), "max_iter": integer()},
            plain,
        ),
    },
    {
        "feature_names": or_none(text),
        "preparation": or_none(
            fields(
                {"scale": or_none(text)},
                {"target_sum": or_none(number), "log1p": boolean, "columns": plain},
                plain,
            )
        ),
        "layout": or_none(fields({"samples": _DIMS, "features": _DIMS})),
        "entries": fields(
            {},
            {
                "nodata": either(text, number),
                "scale": either(text, number),
                "offset": either(text, number),
                "holdout": number,
            },
            plain,
        ),
        "feature_weight": text,
        "sample_weight": text,
        "weights": text,
        "many": fields(
            {"ranks": items(integer(1, MOST_COMPONENTS), MOST_MODELS, 1), "n_init": integer(1, MOST_MODELS)},
            {"method": one_of("restarts", "nmfk", "consensus"), "consensus": boolean},
            plain,
        ),
    },
    plain,
)


def models_of(identity: dict[str, Any]) -> int:
    """How many models a run has, those that were given up among them."""
    many = identity.get("many")
    if many is None:
        return int(identity["model"].get("n_init", 1))
    return len(many["ranks"]) * int(many["n_init"])


def _no_bomb(record: Any) -> None:
    if (count := models_of(record["identity"])) > MOST_MODELS:
        raise Unlike(f"at most {MOST_MODELS} models", count, "identity")


RUN = _both(
    fields(
        {
            "identity": _IDENTITY,
            "budget": fields({"max_iter": integer(), "tol": number}, None, plain),
            "environment": mapping(text, text),
        }
    ),
    _no_bomb,
)

_VERSION = fields({"name": _pass, "widths": items(row(_MODEL, text, _COMPONENTS), 4 * MOST_MODELS)})
_LOCATION = fields({"state": _pass, "phase_index": _MODEL, "rows": or_none(_VERSION)})
_MEMBER = fields(
    {
        "model": _MODEL,
        "phase_indices": items(_MODEL, MOST_MODELS, 1),
        "leader": _MODEL,
        "iteration": integer(),
        "outcome": _ENDING,
        "location": or_none(_LOCATION),
        "objective": or_none(number),
    },
    None,
    nothing,
)


def _commit(record: Any) -> None:
    models = [member["model"] for member in record["models"]]
    if models != sorted(set(models)):
        raise Unlike("a list of models, each once, in the order of their numbers", models, "models")
    segments = [first for first, _ in record["segments"]]
    if segments != sorted(set(segments)) or (segments[:1] != [0] if record["passes"] else bool(segments)):
        raise Unlike("segments that begin with pass 0 and follow each other", segments, "segments")
    if bool(record["state"]) != bool(record["passes"]):
        raise Unlike("the name of a pass once there are any", record["state"], "state")
    ended = [member for member in record["models"] if member["outcome"] is not None]
    if record["outcome"] is not None and len(ended) < len(models):
        raise Unlike("None while models go on", record["outcome"], "outcome")
    if record["iteration"] > record["passes"] or record["start"] > record["passes"]:
        raise Unlike("at most the number of passes", [record["start"], record["iteration"]], "iteration")


_COMMIT = _both(
    fields(
        {
            "format": integer(),
            "writer_id": _token,
            "segments": items(row(integer(), _token), 2**20),
            "has_sums": boolean,
            "passes": integer(0, 2**40),
            "start": integer(0, 2**10),
            "iteration": integer(0, 2**40),
            "state": either(one_of(""), _pass),
            "rows": items(_VERSION, MOST_MODELS),
            "models": items(_MEMBER, MOST_MODELS, 1),
            "outcome": _ENDING,
            "conclusion": or_none(_LOCATION),
        }
    ),
    _commit,
)


def COMMIT(record: Any) -> None:
    """Of a run of this format."""
    fields({"format": integer()})(record)
    if record["format"] == FORMAT:
        _COMMIT(record)


_LOSS_AT = one_of(None, "end", "entry", "solved")
_MEASURES = fields({}, {"hidden": count, "holdout": number}, number)
_ACHIEVED = {
    "iteration": integer(),
    "phase": text,
    "loss": or_none(number),
    "objective": or_none(number),
    "loss_at": _LOSS_AT,
    "measures": _MEASURES,
}


def _told(record: Any) -> None:
    if record["phase"] == "exact" and (record["loss"] is None or record["loss_at"] is None):
        raise Unlike("known after an exact pass", record["loss"], "loss")


HISTORY = _both(
    fields(
        {
            **_ACHIEVED,
            "change": or_none(number),
            "seconds": number,
            "bytes_read": _BYTES,
            "bytes_written": _BYTES,
            "reads": number,
        },
        {
            "memory": or_none(_BYTES),
            "models": items(
                _both(fields({"model": _MODEL, **_ACHIEVED}, None, nothing), _told),
                MOST_MODELS,
            ),
            "retries": integer(),
        },
    ),
    _told,
)

PLAN = fields(
    {
        "stored_dtype": like(ANY_DTYPE, "a dtype"),
        "stored_bytes": _BYTES,
        "sparse": boolean,
        "panels": integer(0, MOST_PANELS),
        "scheduler": text,
        "processes": integer(),
        "threads": integer(),
        "memory_limit": _BYTES,
        "memory_projected": _BYTES,
    }
)

FEATURES = fields({"names": or_none(items(text, 2**24))})

_ATTRS = mapping(text, plain)
_MOST_TILES = 2**22
"""Of a stack: the edges of all are in memory at once."""


def _layout(record: Any) -> None:
    layout = record["layout"]
    for dims, lengths in (("sample_dims", "tiles"), ("feature_dims", "feature_shape")):
        if len(layout[dims]) != len(layout[lengths]) or len(set(layout[dims])) != len(layout[dims]):
            raise Unlike(f"one for each of {lengths}", layout[dims], f"layout.{dims}")
    if size_of([len(each) for each in layout["tiles"]]) > _MOST_TILES:
        raise Unlike(f"at most {_MOST_TILES} in all", "more", "layout.tiles")
    long = dict(zip(layout["sample_dims"], map(sum, layout["tiles"]), strict=True))
    long |= dict(zip(layout["feature_dims"], layout["feature_shape"], strict=True))
    for name, coord in record["coords"].items():
        known = [long.get(dim, length) for dim, length in zip(coord["dims"], coord["shape"], strict=False)]
        if len(coord["dims"]) != len(coord["shape"]) or known != coord["shape"]:
            raise Unlike(f"as long as its dims, {known}", coord["shape"], f"coords.{name}.shape")
        if ("values" in coord) == ("array" in coord):
            raise Unlike("one of values and array", sorted(coord), f"coords.{name}")
        if "values" in coord and size_of(coord["shape"]) != len(coord["values"]):
            raise Unlike(f"{size_of(coord['shape'])} values", len(coord["values"]), f"coords.{name}")


LAYOUT = _both(
    fields(
        {
            "layout": fields(
                {
                    "sample_dims": items(text, 8, 1),
                    "tiles": items(items(_LENGTH, _MOST_TILES, 1), 8, 1),
                    "feature_dims": items(text, 8),
                    "feature_shape": items(_LENGTH, 8),
                    "dims": items(text, 16),
                    "name": or_none(text),
                    "attrs": _ATTRS,
                    "variables": or_none(mapping(text, _ATTRS)),
                }
            ),
            "coords": mapping(
                text,
                fields(
                    {
                        "dims": items(text, 16),
                        "shape": SHAPE,
                        "dtype": like(COORDINATE, "a dtype of numbers, times or text"),
                        "attrs": _ATTRS,
                    },
                    {
                        "values": items(either(text, number), 2**24),
                        "array": like(re.compile(r"layout/[0-9]{1,6}"), "layout/ and a number"),
                    },
                ),
            ),
        }
    ),
    _layout,
)

STATES = fields(
    {
        "models": items(
            fields(
                {
                    "kind": text,
                    "numbers": mapping(text, either(boolean, number)),
                    "inline": mapping(
                        text,
                        fields(
                            {
                                "shape": SHAPE,
                                "dtype": like(NUMERIC, "a dtype of numbers"),
                                "values": items(either(boolean, number), 2**16),
                            }
                        ),
                    ),
                    "placed": mapping(text, fields({"shape": SHAPE, "array": _array, "at": integer()})),
                }
            ),
            MOST_MODELS,
        )
    }
)

FINDINGS = fields(
    {
        "content": fields(
            {},
            {
                "rule": one_of("holdout", "silhouette", "stability", "cophenetic", "dispersion"),
                "best": integer(1, MOST_COMPONENTS),
                "n_asked": integer(),
                "n_components": integer(1, MOST_COMPONENTS),
                "n_init": integer(1, MOST_MODELS),
                "n_reads": number,
                "silhouette": number,
                "consensus loss": number,
                "density_threshold": number,
                "local_neighborhood_size": number,
            },
            plain,
        ),
        "arrays": mapping(_array, like(ANY_DTYPE, "a dtype")),
        "passes": integer(),
    }
)

LOCK = fields(
    {
        "token": like(re.compile(r"[0-9a-f]{1,64}"), "a token"),
        "host": text,
        "pid": integer(0, 2**31 - 1),
        "started": number,
        "time": number,
    }
)
