"""Run stores from strangers: no code runs, no other file is read, sizes are bounded."""

from __future__ import annotations

import ast
import json
import logging
import os
import pickle
import resource
import shutil
import warnings
import zlib
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from zarr.storage import FsspecStore, LocalStore, MemoryStore

import dasknmf
from dasknmf import NMF, open_run
from dasknmf.cli.commands import main
from dasknmf.errors import DaskNMFError, RunDamagedError, RunError, SourceError
from dasknmf.io.credentials import refuse_credentials
from dasknmf.store import arrays, records
from dasknmf.store.lock import break_lock

PACKAGE = Path(dasknmf.__file__).parent
PARAMETERS = {"n_components": 3, "init": "random", "random_state": 0, "tol": 0}
SECRET = "wJalrXUtnFEMI"


def V():
    rng = np.random.default_rng(0)
    return rng.gamma(1.0, size=(40, 3)) @ rng.gamma(1.0, size=(3, 7)) + 0.01


def fit(X, path, max_iter=2, **fit):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return NMF(**PARAMETERS, max_iter=max_iter).fit(X, checkpoint=path, **fit)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    fit(V(), path)
    return path


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def unpickling(monkeypatch):
    """As in versions of numcodecs that unpickle whatever they are given; the newest ask to be told so."""
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)


def changed(run: Path, record: str, change) -> None:
    """A record of a run with other content, whose checksum is right."""
    file = run / record / "zarr.json"
    document = json.loads(file.read_text())
    content = document["attributes"]["record"]
    change(content)
    document["attributes"]["crc32"] = zlib.crc32(json.dumps(content, sort_keys=True).encode())
    file.write_text(json.dumps(document))


def growth(call) -> int:
    """Bytes by which the largest that this process ever was is larger after a call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


# Names that become paths


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "1-a/../../outside", "1-.", "1-a\\b", ""])
@pytest.mark.parametrize("where", ["state", "rows", "segments", "writer_id", "location"])
def test_a_name_that_leaves_the_run_is_refused(run, name, where):
    def change(commit):
        if where == "rows":
            commit["progress"]["rows"][0]["name"] = name
        elif where == "location":
            commit["progress"]["models"][0]["location"]["state"] = name
        elif where == "segments":
            commit["segments"][0][1] = name
        elif where == "state":
            commit["progress"]["state"] = name
        else:
            commit[where] = name

    changed(run, "commit", change)
    outside = run.parent / "outside"
    outside.mkdir()
    (outside / "zarr.json").write_text("{}")
    for use in (lambda: open_run(run).W, lambda: fit(V(), run, 3)):
        with pytest.raises(RunDamagedError, match=r"record 'commit' .* is damaged"):
            use()
    assert (outside / "zarr.json").read_text() == "{}"


def test_an_array_of_a_state_lies_in_the_state(run):
    state = json.loads((run / "commit/zarr.json").read_text())["attributes"]["record"]["progress"]["state"]
    changed(run, f"small/{state}/0", lambda record: record.update(array="../../W"))
    with pytest.raises(RunDamagedError, match=r"array is '../../W'"):
        open_run(run).H  # noqa: B018


@pytest.mark.parametrize("option", [["--cnmf", "../out"], ["--cnmf", "/out"], ["--key-added", "a/../b"]])
def test_names_of_exports_stay_where_they_belong(run, option):
    found = CliRunner().invoke(main, ["export", str(run), str(run.parent / "out"), *option])
    assert found.exit_code == 2
    assert "a name has no / and no \\" in found.output


# Sizes


@pytest.mark.parametrize("record", ["commit", "run", "plan"])
def test_a_record_that_is_too_long_is_not_read(run, record):
    file = run / record / "zarr.json"
    with file.open("r+b") as opened:
        opened.truncate(2**40)  # takes no room on a disk

    def use():
        with pytest.raises(RunDamagedError, match="is longer than the limit of 67108864 bytes"):
            open_run(run).plan  # noqa: B018

    assert growth(use) < 64 * 2**20


def test_a_record_that_is_too_long_is_not_fetched():
    """From a store that is no directory, no more than the limit and a byte comes."""
    asked = []

    class Watched(MemoryStore):
        async def get(self, key, prototype, byte_range=None):
            asked.append(byte_range)
            return await super().get(key, prototype, byte_range)

    store = Watched()
    fit(V(), store)
    asked.clear()
    open_run(store).W.compute()
    assert asked
    assert all(each is not None and each.end <= records.MOST_DOCUMENT + 1 for each in asked)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**5,
        '{"attributes":' + '{"a":' * 5000 + "1" + "}" * 5001,
        "1e999",
        "1" * 5000,
        "NaN",
        "{}",
        '{"attributes": {"record": {}, "crc32": 1}, "attributes": {}}',
    ],
)
@pytest.mark.parametrize("record", ["commit", "run"])
def test_a_document_of_any_text_is_told(run, record, text):
    (run / record / "zarr.json").write_text(text)
    with pytest.raises(RunDamagedError, match=f"record '{record}' .* is damaged"):
        open_run(run)


@pytest.mark.parametrize(
    ("record", "change"),
    [
        ("run", lambda r: r["identity"].update(shape=[1e999, 7])),
        ("run", lambda r: r["identity"].update(shape=[10**30, 7])),
        ("run", lambda r: r["identity"]["model"].update(n_init=2**40)),
        ("run", lambda r: r["identity"]["model"].update(other=1)),
        ("run", lambda r: r["identity"].update(many={"ranks": [3] * 1000, "n_init": 2**16})),
        ("run", lambda r: r["identity"].update(other=10**400)),
        ("run", lambda r: r["identity"].update(dtype="|O")),
        ("run", lambda r: r.update(other=1)),
        ("commit", lambda r: r["progress"].update(other=1)),
        ("commit", lambda r: r["progress"].update(passes=True)),
        ("commit", lambda r: r["progress"]["models"][0].update(objective="nan")),
        ("commit", lambda r: r["progress"].update(passes=10**18)),
        ("commit", lambda r: r["progress"]["models"][0].update(leader=10**9)),
    ],
)
def test_numbers_out_of_bounds_are_told(run, record, change):
    changed(run, record, change)
    with pytest.raises(RunDamagedError, match=f"record '{record}' .* is damaged"):
        open_run(run)


def generation(run: Path) -> Path:
    return (
        run
        / "W"
        / json.loads((run / "commit/zarr.json").read_text())["attributes"]["record"]["progress"]["rows"][0][
            "name"
        ]
    )


def test_rows_of_any_number_take_no_memory(run):
    """A run of 10¹⁴ rows, told by all of its records alike, whose W has no chunk."""
    rows = 10**14
    changed(run, "run", lambda record: record["identity"].update(shape=[rows, 7]))
    arrays.write_array(LocalStore(run), "panels/edges", np.array([0, rows]))
    document = json.loads((generation(run) / "zarr.json").read_text())
    document["shape"][1] = document["chunk_grid"]["configuration"]["chunk_shape"][1] = rows
    (generation(run) / "zarr.json").write_text(json.dumps(document))
    (generation(run) / "c.0.0.0").unlink()

    def use():
        with pytest.raises(RunDamagedError, match="more than the limit of 17179869184"):
            open_run(run).W.compute()

    assert growth(use) < 64 * 2**20


@pytest.mark.parametrize("missing", [True, False])
def test_an_array_of_any_length_takes_no_memory(run, missing):
    document = json.loads((run / "panels/edges/zarr.json").read_text())
    document["shape"] = document["chunk_grid"]["configuration"]["chunk_shape"] = [2**20]
    (run / "panels/edges/zarr.json").write_text(json.dumps(document))
    if missing:
        (run / "panels/edges/c.0").unlink()
    else:
        os.truncate(run / "panels/edges/c.0", 2**40)
    with pytest.raises(
        RunDamagedError, match="chunk is missing" if missing else "longer than the limit of 8388612 bytes"
    ):
        open_run(run)


@pytest.mark.parametrize(
    "codecs",
    [
        [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 0}}],
        [{"name": "bytes"}, {"name": "crc32c"}, {"name": "gzip", "configuration": {"level": 1}}],
        [{"name": "numcodecs.pickle"}, {"name": "crc32c"}],
        [{"name": "vlen-utf8"}, {"name": "crc32c"}],
        [],
    ],
)
def test_no_other_codec_is_run(run, codecs):
    def change(array):
        file = array / "zarr.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"codecs": codecs}))

    W = open_run(run).W.compute()
    change(generation(run))
    np.testing.assert_array_equal(open_run(run).W.compute(), W)  # rows are read by hand
    change(run / "panels/edges")
    with pytest.raises(RunDamagedError, match="codecs"):
        open_run(run)


class Evil:
    """What a pickle may be: a program."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


def pickled(group, name: str, values: np.ndarray, evil: Path) -> None:
    """An array of Zarr format 2 whose last filter unpickles.

    Of numbers Zarr itself refuses it; of strings it looks at the first filter alone.
    """
    text = {"dtype": str, "filters": [numcodecs.VLenUTF8()]} if values.dtype.kind == "U" else {}
    stored = {"dtype": values.dtype, "filters": []} | text
    array = group.create_array(name, shape=values.shape, chunks=values.shape, compressors=None, **stored)
    root = Path(array.store.root) / array.path
    metadata = json.loads((root / ".zarray").read_text())
    metadata["filters"] = [*(metadata["filters"] or []), {"id": "pickle", "protocol": 5}]
    (root / ".zarray").write_text(json.dumps(metadata))
    (root / ".".join("0" * values.ndim)).write_bytes(pickle.dumps(Evil(evil)))


def test_a_run_of_format_2_is_refused(run, tmp_path):
    """Arrays of Zarr format 2, whose filters may be pickles, are none of a run's."""
    directory = generation(run)
    document = json.loads((directory / "zarr.json").read_text())
    shutil.rmtree(directory)
    group = zarr.open_group(run / "W", mode="a", zarr_format=2)
    pickled(group, directory.name, np.zeros(document["shape"]), tmp_path / "evil")
    with pytest.raises(RunDamagedError, match="its chunk is missing"):
        open_run(run).W.compute()
    assert not (tmp_path / "evil").exists()


# V


def test_a_pickle_would_run(tmp_path):
    """The attack that the tests below are about is one: Zarr alone runs it."""
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=2)
    pickled(group, "v", np.array(["a", "b"]), tmp_path / "evil")
    with pytest.raises((TypeError, AttributeError, ValueError)):  # of what the program left instead of bytes
        zarr.open_array(tmp_path / "v.zarr/v", mode="r")[...]
    assert (tmp_path / "evil").exists()


@pytest.mark.parametrize("values", [np.ones((4, 3)), np.array([["a", "b"]])])
def test_V_as_pickles_is_not_decoded(tmp_path, values):
    group = zarr.open_group(tmp_path / "v.zarr", mode="w", zarr_format=2)
    pickled(group, "v", values, tmp_path / "evil")
    with pytest.raises((SourceError, ValueError)):
        fit(str(tmp_path / "v.zarr/v"), None)
    result = CliRunner().invoke(main, ["fit", str(tmp_path / "v.zarr/v"), str(tmp_path / "run"), "-k", "2"])
    assert result.exit_code in (2, 3)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("part", ["X/data", "X/indptr", "var/highly_variable", "var/_index"])
def test_an_anndata_with_a_pickle_is_not_decoded(tmp_path, part):
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    X = root.create_group("X")
    X.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [4, 3]})
    arrays = {"X/data": np.ones(4), "X/indices": np.zeros(4, int), "X/indptr": np.arange(5)}
    for table, length in (("obs", 4), ("var", 3)):
        group = root.create_group(table)
        group.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0"})
        group.attrs.update({"_index": "_index", "column-order": []})
        arrays[f"{table}/_index"] = np.arange(length).astype(str)
    arrays["var/highly_variable"] = np.ones(3, bool)
    root["var"].attrs["column-order"] = ["highly_variable"]
    for name, values in arrays.items():
        if name == part:
            pickled(root, name, values, tmp_path / "evil")
            continue
        text = values.dtype.kind == "U"
        kind = "string-array" if text else "array"
        array = root.create_array(name, shape=values.shape, dtype=str if text else values.dtype)
        array[:] = values
        array.attrs.update({"encoding-type": kind, "encoding-version": "0.2.0"})
    if part == "var/_index":
        attrs = tmp_path / "a.zarr" / part / ".zattrs"
        attrs.write_text(json.dumps({"encoding-type": "string-array", "encoding-version": "0.2.0"}))
    command = ["fit", tmp_path / "a.zarr", tmp_path / "run", "-k", "2", "--mask-var", "highly_variable"]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code in (2, 3), result.output
    assert ("is stored as pickles" in result.output) == (part == "var/_index")
    assert not (tmp_path / "evil").exists()


def test_a_stack_with_a_pickle_is_not_decoded(tmp_path):
    xr = pytest.importorskip("xarray")
    stack = xr.DataArray(V().reshape(5, 8, 7), dims=("y", "x", "band"), name="v")
    stack.to_zarr(tmp_path / "s.zarr", zarr_format=2, consolidated=False)
    group = zarr.open_group(tmp_path / "s.zarr", mode="r+", zarr_format=2)
    pickled(group, "band", np.array(list("abcdefg")), tmp_path / "evil")
    (tmp_path / "s.zarr/band/.zattrs").write_text('{"_ARRAY_DIMENSIONS": ["band"]}')
    command = ["fit", tmp_path / "s.zarr", tmp_path / "run", "-k", "2", "--sample-dims", "y,x"]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 3
    assert "is stored as pickles" in result.output
    assert not (tmp_path / "evil").exists()


def test_known_rows_are_not_unpickled(tmp_path):
    np.save(tmp_path / "known.npy", np.array([[Evil(tmp_path / "evil")]]), allow_pickle=True)
    zarr.save(tmp_path / "v.zarr", V())
    command = [
        "fit",
        tmp_path / "v.zarr",
        tmp_path / "run",
        "-k",
        "2",
        "--fixed-components",
        tmp_path / "known.npy",
    ]
    result = CliRunner().invoke(main, list(map(str, command)))
    assert result.exit_code == 3
    assert not (tmp_path / "evil").exists()


# Links


def test_nothing_is_deleted_through_a_link(run, tmp_path):
    """Reading follows links, as far as the user's own permissions go; deleting takes the link alone."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    (run / "W/0-linked").symlink_to(outside)
    (run / "selection").symlink_to(outside)
    fit(V(), run, overwrite=True)
    assert (outside / "precious").read_text() == "kept"


def test_a_pipe_is_not_waited_for(run):
    (run / "commit/zarr.json").unlink()
    os.mkfifo(run / "commit/zarr.json")
    with pytest.raises(RunDamagedError, match="is not a file"):
        open_run(run)


def test_a_lock_of_any_content_is_free(run):
    for text in (
        "[]",
        "{" * 9999,
        '{"token": 1}',
        '{"pid": 1e999}',
        '{"token": "../x", "pid": -1}',
        "x" * 99,
    ):
        (run / "lock").write_text(text)
        assert open_run(run).writer is None
        assert break_lock(LocalStore(run)) is None
    fit(V(), run, 3)


# The package itself

ALLOWED: set[tuple[str, str]] = set()
"""File and name, each with a reason."""
FORBIDDEN = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "marshal",
    "shelve",
    "subprocess",
    "yaml",
    "pty",
    "commands",
}
CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "execv", "execve", "spawnv"}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nothing_runs_text(path):
    for node in ast.walk(ast.parse(path.read_text())):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [str(node.module).split(".")[0]]
        found = [name for name in found if name in FORBIDDEN]
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None)
            owner = getattr(getattr(node.func, "value", None), "id", None)
            called = getattr(node.func, "attr", None)
            found += [name] if name in CALLS else []
            found += [called] if owner == "os" and called in CALLS else []
            found += [
                each.arg
                for each in node.keywords
                if each.arg in ("shell", "allow_pickle") and getattr(each.value, "value", None) is not False
            ]
        relative = str(path.relative_to(PACKAGE))
        assert [name for name in found if (relative, name) not in ALLOWED] == [], relative


def test_nothing_is_pickled_at_rest(run):
    for path in run.rglob("*"):
        if path.is_file() and path.name == "zarr.json":
            json.loads(path.read_text())
        elif path.is_file():
            assert path.name.startswith("c.")
            assert not path.read_bytes().startswith(b"\x80\x04")


# Pages

SCRIPT = "<script>alert(1)</script>"


def test_what_a_stranger_wrote_is_text_in_a_page(tmp_path):
    from dasknmf import Prepared
    from dasknmf.plots.report import page

    names = [f"{SCRIPT}{number}" for number in range(7)]
    path = tmp_path / "<img src=x onerror=alert(1)>"
    fit(Prepared(V(), feature_names=names), path)
    changed(path, "run", lambda record: record["identity"].update(sample_weight=SCRIPT))
    changed(path, "plan", lambda record: record.update(scheduler=SCRIPT))
    changed(path, "run", lambda record: record["identity"]["model"].update(init=SCRIPT))
    run = open_run(path)
    html = page(run) + run._repr_html_()
    assert "&lt;script&gt;" in html
    assert "<script" not in html
    assert "<img src=x" not in html


# Credentials


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIA:{SECRET}@bucket/run",
        f"s3://AKIA:{SECRET}/with+slash@bucket/run",
        f"https://host/run.zarr?token={SECRET}",
        f"https://host/v.zarr?X-Amz-Signature={SECRET}&X-Amz-Credential=x",
        f"https://user:{SECRET}@host/v.zarr",
        f"simplecache::https://host/v.zarr?sig={SECRET}",
        f"abfs://container@account.dfs.core.windows.net/v?sp=r&sig={SECRET}",
    ],
)
def test_no_url_with_credentials_is_taken(url, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    told = []
    for use in (lambda: open_run(url), lambda: fit(V(), url), lambda: fit(url, tmp_path / "run")):
        with pytest.raises(DaskNMFError, match=r"contains credentials.* give the URL without them") as raised:
            use()
        told.append(str(raised.value))
    zarr.save(tmp_path / "v.zarr", V())
    for command in (
        ["fit", url, str(tmp_path / "run"), "-k", "2"],
        ["fit", str(tmp_path / "v.zarr"), url, "-k", "2"],
    ):
        result = CliRunner().invoke(main, command)
        assert result.exit_code in (3, 4), result.output
        told.append(result.output)
    assert SECRET not in "".join(told) + caplog.text
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/a:b/c@d/run?x=1",
        "http://127.0.0.1:8080/v.zarr",
        "http://[::1]:8080/v.zarr",
        "abfs://container@account.dfs.core.windows.net/v",
        "github://org:repo@main/v.zarr",
        "/home/user:1/x?token=2",
        "file:///data/v.zarr",
    ],
)
def test_other_urls_are(url):
    refuse_credentials(url, RunError)


def test_no_secret_of_a_store_is_written(tmp_path, caplog):
    """Options of a store of fsspec, as of s3fs key and secret, stay in its file system."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    class Keyed(MemoryFileSystem):
        """In memory, opened with a secret."""

        protocol = "keyed"
        store: dict = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

    caplog.set_level(logging.DEBUG)
    fsspec.register_implementation("keyed", Keyed, clobber=True)
    options = {"key": "AKIA", "secret": SECRET}

    def opened(path):
        return FsspecStore.from_url(f"keyed://{path}", storage_options=options)

    source = zarr.create_array(opened("bucket/v.zarr"), shape=(40, 7), chunks=(10, 7), dtype="f8")
    source[:] = V()
    model = fit(source, opened("bucket/run"))
    run = open_run(opened("bucket/run"))
    from dasknmf.plots.report import page

    told = [page(run), run._repr_html_(), repr(run), str(run.store), repr(source), repr(model), caplog.text]
    with pytest.raises(DaskNMFError) as raised:
        fit(source[:20], opened("bucket/run"))
    told += [str(raised.value)]
    assert SECRET not in "".join(told)
    stored = Keyed.store
    assert any("commit" in name for name in stored)
    assert all(SECRET.encode() not in each.getvalue() for each in stored.values())
