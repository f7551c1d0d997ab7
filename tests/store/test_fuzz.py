"""Run stores and option files with random content: errors of one line."""

from __future__ import annotations

import copy
import json
import math
import resource
import shutil
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import to_builtins

from dasknmf import NMF, open_run, open_sweep, rank_sweep
from dasknmf.cli.commands import main
from dasknmf.cli.summary import summary
from dasknmf.errors import DaskNMFError

PARAMETERS = {"n_components": 3, "init": "random", "random_state": 0, "tol": 0}
ANY_TIME = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.large_base_example]


def V():
    rng = np.random.default_rng(0)
    return rng.gamma(1.0, size=(40, 3)) @ rng.gamma(1.0, size=(3, 7)) + 0.01


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that has ended, one of two starts, and a sweep; how each is begun again, with more to do."""
    where = tmp_path_factory.mktemp("runs")
    sweep = {"n_components": [2, 3], "n_init": 2, "random_state": 0, "tol": 0}

    def one(path, max_iter=2):
        return NMF(**PARAMETERS, max_iter=max_iter).fit(V(), checkpoint=path)

    def two(path, max_iter=2):
        return NMF(**PARAMETERS, n_init=2, max_iter=max_iter).fit(V(), checkpoint=path)

    def ranks(path, max_iter=2):
        return rank_sweep(V(), checkpoint=path, max_iter=max_iter, **sweep)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, fit in (("one", one), ("two", two), ("ranks", ranks)):
            fit(where / name)
    return where, {"one": one, "two": two, "ranks": ranks}


def documents(run: Path) -> list[str]:
    found = [str(path.relative_to(run)) for path in sorted(run.rglob("zarr.json"))]
    # The most telling come as often as all others.
    return [*(["commit/zarr.json", "run/zarr.json"] * (len(found) // 4)), *found]


def places(value, path=()):
    """The path of every value of a document."""
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list):
        for index in range(min(len(value), 6)):
            yield from places(value[index], (*path, index))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**63, -(2**63), 10**18, 10**400]),
    st.floats(),
    st.sampled_from(["", "W", "../../../etc", "/etc/passwd", "0-a/../..", "O", "<U9999999", "pickle", "nan"]),
    st.text(max_size=5),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutations(draw):
    return (
        draw(st.sampled_from(["one", "two", "ranks"])),
        draw(st.integers(0, 10**6)),
        draw(
            st.lists(
                st.tuples(st.integers(0, 10**6), st.sampled_from("rrrrdxst"), JSON), min_size=1, max_size=2
            )
        ),
    )


def mutated(document, changes):
    document = copy.deepcopy(document)
    for number, kind, value in changes:
        attributes = document.get("attributes", {})
        record = isinstance(attributes, dict) and "record" in attributes
        root = attributes["record"] if record else document
        at = list(places(root))
        *path, last = at[number % len(at)] or (None,)
        if last is None:
            continue
        owner = root
        for step in path:
            owner = owner[step]
        if kind == "d":
            del owner[last]
        elif kind == "x" and isinstance(owner, dict):
            owner[f"{last}x"] = value
        elif kind == "s" and isinstance(owner[last], (int, float)) and not isinstance(owner[last], bool):
            owner[last] += 1
        else:
            owner[last] = value
        if record:
            attributes["crc32"] = zlib.crc32(json.dumps(attributes["record"], sort_keys=True).encode())
    return document


def used(path: Path, again) -> None:
    """All that one does with a run."""
    run = open_run(path)
    json.dumps([repr(run), run._repr_html_(), run.params, run.environment, to_builtins(run.plan)])
    summary(run)
    run.shares, run.dead_components, run.layout, run.feature_names, run.preparation  # noqa: B018
    run.history.columns()
    NMF.from_run(path).components_.sum()
    run.W.compute(scheduler="sync")
    if run.identity.many is not None:
        open_sweep(path).to_dataframe()
    again(path, 3)


def attempted(path: Path, again) -> None:
    for part in (used, lambda path, again: again(path, 3)):
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                part(path, again)
        except DaskNMFError as error:
            assert "\n" not in str(error)  # noqa: PT017


def around(path: Path) -> dict[str, int]:
    return {str(each): each.stat().st_mtime_ns for each in path.parent.rglob("*") if path not in each.parents}


def fuzzed(runs, where: Path, which) -> None:
    stored, fits = runs
    name, number, changes = which
    path = where / "inner" / "run"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(stored / name, path)
    (where / "other").mkdir(exist_ok=True)
    keys = documents(path)
    file = path / keys[number % len(keys)]
    text = file.read_text()
    if changes[0][1] == "t":
        file.write_text(text[: number % len(text)])
    else:
        file.write_text(json.dumps(mutated(json.loads(text), changes)))
    before = around(path)
    attempted(path, fits[name])
    assert around(path).keys() == before.keys()


# Files of options


OPTIONS = sorted(
    name for each in main.commands["fit"].params if (name := each.name) not in ("places", "config", None)
)
TOML_VALUES = st.recursive(
    st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["nan", "1e999", "auto", "../x", "64MiB"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1), inner, max_size=2),
    max_leaves=4,
)


def toml(value) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007F")
    if isinstance(value, float):
        return str(value) if not math.isfinite(value) else repr(value).replace("e+", "e")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(each)}" for name, each in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else str(value)


def told(where: Path, text: bytes) -> None:
    """A file of options is taken, or refused in one line: V is not there, which is told last."""
    (where / "run.toml").write_bytes(text)
    command = ["fit", "--config", where / "run.toml", where / "no.zarr", where / "run", "-k", "2"]
    result = CliRunner().invoke(main, list(map(str, command)))
    if result.exception is not None:
        assert isinstance(result.exception, SystemExit), text
    assert result.exit_code in (2, 3), result.output
    if "run.toml" in result.output:
        assert result.exit_code == 2
        assert len([line for line in result.output.splitlines() if "Error: " in line]) == 1


@settings(max_examples=120, deadline=5_000, suppress_health_check=ANY_TIME, derandomize=True)
@given(st.dictionaries(st.sampled_from(OPTIONS), TOML_VALUES, max_size=3))
def test_options_of_any_value_are_taken_or_told(tmp_path_factory, values):
    text = "".join(f"{name} = {toml(value)}\n" for name, value in values.items())
    told(tmp_path_factory.getbasetemp(), text.encode(errors="replace"))


@settings(max_examples=60, deadline=5_000, suppress_health_check=ANY_TIME, derandomize=True)
@given(st.binary(max_size=30) | st.text(max_size=30).map(lambda text: text.encode(errors="replace")))
def test_a_file_of_any_text_is_taken_or_told(tmp_path_factory, text):
    told(tmp_path_factory.getbasetemp(), text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a = " + "[" * 50_000, "nested too deeply"),
        ("#" * (2**20 + 1), "is longer than 1048576 bytes"),
        ("max_iter = " + "9" * 5000, "is not TOML"),
        ("max_iter = {a = 1}", "to {'a': 1}; it takes text or a number"),
        ("[fit]\nmax_iter = 1", "sets ['fit']"),
        ("max_iter = true", "to True"),
        ("max_iter = 1979-05-27", "to datetime.date(1979, 5, 27); it takes"),
        ("max_iter = [1, 2]", "to [1, 2]"),
        ("halving = 'yes'", "takes true or false"),
        ("tol = 'x'", "sets 'tol'"),
        ("max_iter = 1\nmax-iter = 2", "sets an option twice"),
    ],
    ids=range(11),
)
def test_what_is_wrong_in_a_file_of_options_is_told(tmp_path, text, what):
    (tmp_path / "run.toml").write_text(text)
    command = ["fit", "--config", str(tmp_path / "run.toml"), "no.zarr", str(tmp_path / "run"), "-k", "2"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert what in " ".join(result.output.split())


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@settings(max_examples=25, deadline=20_000, suppress_health_check=ANY_TIME, derandomize=True)
@given(which=mutations())
def test_a_run_of_any_content_works_or_is_told(runs, tmp_path_factory, which):
    where = tmp_path_factory.getbasetemp() / "fuzzed"
    where.mkdir(exist_ok=True)
    before = peak()
    fuzzed(runs, where, which)
    assert peak() - before < 256 * 2**20
