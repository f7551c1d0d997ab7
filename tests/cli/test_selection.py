"""Sweeps and consensus on the command line: the findings of Python, and resumed runs."""

from __future__ import annotations

import json

import anndata
import click
import numpy as np
import pytest
import xarray as xr
import zarr

from dasknmf import NMF, consensus, open_consensus, open_run, open_sweep, rank_sweep
from dasknmf.cli.parameter_types import RANKS
from dasknmf.fitting.results import start_losses
from dasknmf.plots import ranks as draw_ranks
from dasknmf.plots.report.models import ranges
from tests.cli.calls import done, refused
from tests.helpers import stored
from tests.singlecell.cells import N_CELLS, K, cells, written
from tests.stacks.draw import UNSTABLE, scene, write

pytestmark = [
    pytest.mark.filterwarnings("ignore:no rank has a smallest silhouette"),
    pytest.mark.filterwarnings("ignore:Forward slashes:FutureWarning"),
    pytest.mark.filterwarnings(UNSTABLE),
]

SWEEP = ["-k", "2-4", "--n-init", 3, "--random-state", 0, "--max-iter", 6]
CONSENSUS = ["-k", K, "--n-init", 6, "--random-state", 0, "--max-iter", 6]


@pytest.fixture
def V(tmp_path, low_rank):
    stored(tmp_path / "v.zarr", low_rank, (30, 14))
    return str(tmp_path / "v.zarr")


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The path of cells, the run of their consensus, and the output of the command."""
    directory = tmp_path_factory.mktemp("programs")
    path = written(cells(), directory, "h5ad")
    said = done("consensus", path, directory / "run", *CONSENSUS, "--all-genes", "--normalize").stdout
    return path, directory / "run", said


def row_of(text, rank):
    """The cells of the line of a rank in the table; an arrow precedes the chosen rank."""
    lines = [line.split() for line in text.splitlines()]
    return next(line for line in lines if line[:1] == [str(rank)] or line[:2] == ["→", str(rank)])


@pytest.mark.parametrize(
    ("told", "ranks"),
    [
        ("5-8", [5, 6, 7, 8]),
        ("2,4,8", [2, 4, 8]),
        ("3", [3]),
        ("2-4, 10-31:10", [2, 3, 4, 10, 20, 30]),
        ([2, 4], [2, 4]),
        (7, [7]),
    ],
)
def test_ranks_are_told_as_numbers_and_ranges(told, ranks):
    assert RANKS.convert(told, None, None) == ranks


@pytest.mark.parametrize("told", ["", "2,", "8-5", "2-9:0", "-3", "2.5", "two", "2-4-6"])
def test_what_is_no_rank_is_refused(told):
    with pytest.raises(click.BadParameter, match="5-15"):
        RANKS.convert(told, None, None)


def test_ranks_are_told_again_in_short():
    assert ranges([2, 3, 4, 6, 8, 9]) == "2–4, 6, 8–9"


def test_a_sweep_says_what_python_finds(V, tmp_path, low_rank):
    run = tmp_path / "run"
    said = done("sweep", V, run, *SWEEP, "--holdout", 0.1).stdout
    sweep = rank_sweep(low_rank, [2, 3, 4], n_init=3, holdout=0.1, random_state=0, max_iter=6)
    opened = open_sweep(run)
    assert opened.best == sweep.best
    np.testing.assert_allclose(open_run(run).H, sweep.components, rtol=1e-9)
    for rank, row in sweep.to_dataframe().iterrows():
        shown = row_of(said, rank)
        assert (shown[0] == "→") == (rank == sweep.best)
        assert shown[-len(row) + 1 :] == [f"{value:.4g}" for value in row.drop("explained_variance")]
    assert f"components: {sweep.best} of 2–4" in said
    assert f"chosen: {sweep.best} components, by the rule holdout: " in said
    assert "9 of 9 have ended" in said
    assert f"dasknmf.open_sweep('{run}')" in said


def test_a_sweep_of_one_start_each(V, tmp_path):
    run = tmp_path / "run"
    said = done("sweep", V, run, "-k", "2-3", "--n-init", 1, "--holdout", 0.1, "--max-iter", 3).stdout
    assert "sweep: 2–3 components, 1 start of each: different random numbers" in said
    assert "2 of 2 have ended" in said
    done("report", run, "-o", tmp_path / "page.html")
    assert "1 start of each" in (tmp_path / "page.html").read_text()


def test_a_sweep_goes_on_and_chooses_again(V, tmp_path):
    run = tmp_path / "run"
    done("sweep", V, run, *SWEEP, "--overwrite")
    before = open_run(run)
    other = done("sweep", V, run, *SWEEP, "--rule", "dispersion")
    assert "by the rule dispersion: the highest dispersion" in other.stdout
    assert "exact" not in other.stderr
    assert open_run(run).history.exact == before.history.exact
    table = open_sweep(run)
    assert table.best == table.choose("dispersion")
    assert np.isnan(table.columns["holdout"]).all()
    longer = [*SWEEP[:-1], 8]
    assert "exact pass 8" in done("sweep", V, run, *longer).stderr
    assert open_run(run).n_iter == 8
    assert "n_init: 3 in the run, 2 now" in refused(4, "sweep", V, run, *SWEEP[:2], "--n-init", 2)


def test_a_config_of_a_sweep(V, tmp_path):
    config = tmp_path / "sweep.toml"
    config.write_text('n-components = [2, 4]\nn-init = 2\nmethod = "nmfk"\nperturb = "rows"\nmax-iter = 2\n')
    said = done("sweep", V, tmp_path / "run", "--config", config).stdout
    assert "sweep: 2, 4 components, 2 starts of each: NMFk" in said
    assert open_run(tmp_path / "run").identity.many.ranks == (2, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-components", "2,4,3"], "ranks must ascend without repetition: give [2, 3, 4]"),
        (["--n-components", "4-15"], "X is 90 x 14"),
        (["--n-components", "2-3", "--n-init", "1"], "give --n-init 10, or --holdout 0.05"),
        (["--n-components", "2-3", "--rule", "holdout"], "give --holdout 0.05"),
        (["--n-components", "2-3", "--epsilon", "0.1"], "need --method nmfk"),
        (["--n-components", "2-3", "--method", "nmfk", "--epsilon", "0.1"], "needs --perturb uniform"),
        ([], "Missing option"),
    ],
)
def test_mistakes_in_a_sweep(V, tmp_path, arguments, message):
    assert message in refused(2, "sweep", V, tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_a_consensus_says_what_python_finds(programs):
    _, run, said = programs
    agreed = open_consensus(run)
    assert f"spectra: {agreed.kept.sum()} of {6 * K} kept: density below 0.5" in said
    assert f"silhouette: {agreed.silhouette:.3f}" in said
    assert f"{np.median(agreed.density):.3g}" in said
    np.testing.assert_allclose(open_run(run).H, agreed.spectra, rtol=1e-6)
    for row in agreed.spectra:
        assert agreed.feature_names[row.argmax()] in said
    assert f"dasknmf top {run}" in said
    assert f"dasknmf.open_consensus('{run}')" in said


def test_another_threshold_only_clusters_again(V, tmp_path, low_rank):
    run, asked = tmp_path / "run", ["-k", 3, "--n-init", 8, "--random-state", 0, "--max-iter", 6]
    done("consensus", V, run, *asked, "--density-threshold", 2)
    density = np.sort(open_consensus(run).density)
    threshold = float(density[-3:-1].mean())
    said = done("consensus", V, run, *asked, "--density-threshold", threshold)
    assert "exact" not in said.stderr
    assert f"spectra: 22 of 24 kept: density below {threshold:g}" in said.stdout
    direct = consensus(
        low_rank, 3, n_init=8, random_state=0, max_iter=6, density_threshold=threshold, dtype="float64"
    )
    np.testing.assert_allclose(open_run(run).H, direct.spectra, rtol=1e-9)
    none = refused(3, "consensus", V, run, *asked, "--density-threshold", 1e-9)
    assert "density" in none
    few = refused(2, "consensus", V, run, "-k", 3, "--n-init", 2)
    assert "--local-neighborhood-size 0.3 times --n-init 2 is 0" in few


def test_the_other_commands_take_what_was_concluded(programs, tmp_path):
    path, run, _ = programs
    H = open_run(run).H
    top = json.loads(done("top", run, "-n", 3, "--json").stdout)
    names = open_run(run).feature_names
    assert [genes[0] for genes in top.values()] == names[H.argmax(axis=1)].tolist()
    done("export", run, path)
    adata = anndata.read_h5ad(path)
    assert adata.obsm["X_nmf"].shape == (N_CELLS, K)
    np.testing.assert_allclose(adata.varm["NMF"], H.T, rtol=1e-6)
    done("transform", run, path, tmp_path / "w.zarr")
    W = zarr.open_array(tmp_path / "w.zarr", mode="r")[...]
    np.testing.assert_allclose(W, open_run(run).W.compute(), rtol=1e-3, atol=1e-3 * W.max())
    assert f"consensus: 6 starts with {K} components" in done("info", run).stdout


def test_a_sweep_of_a_stack_becomes_maps(tmp_path):
    path, run = write(scene(shape=(2, 3, 20, 20)), tmp_path / "scene.zarr"), tmp_path / "run"
    said = done("sweep", path, run, "--sample-dims", "y,x", *SWEEP[:-1], 2).stdout
    assert f"maps: dasknmf export {run} maps.zarr" in said
    best = open_sweep(run).best
    done("export", run, tmp_path / "maps.zarr")
    with xr.open_zarr(tmp_path / "maps.zarr", consolidated=False) as maps:
        assert maps.sizes["component"] == best
    assert NMF.from_run(run).n_components == best


def test_info_of_a_sweep_that_runs(V, tmp_path):
    run = tmp_path / "run"

    def stop(record):
        if record.iteration == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        rank_sweep(V, [2, 4], n_init=2, random_state=0, max_iter=5, checkpoint=run, callbacks=[stop])
    said = done("info", run).stdout
    assert "components: 2, 4   status: interrupted" in said
    assert "models: 0 of 4 have ended" in said
    assert row_of(said, 2)[1:5] == ["0", "of", "2", "2"]
    with pytest.raises(ValueError, match="is not a finished sweep or consensus"):
        draw_ranks(run)
    content = json.loads(done("info", run, "--json").stdout)
    assert content["many"] == {"ranks": [2, 4], "n_init": 2, "method": "restarts"}
    assert content["models"] == "0 of 4 have ended"


def test_info_and_the_page_of_a_sweep_that_goes_on_beyond_its_conclusion(V, tmp_path):
    run, asked = tmp_path / "run", {"n_init": 2, "random_state": 0, "tol": 0}
    sweep = rank_sweep(V, [2, 3], max_iter=2, **asked, checkpoint=run)
    losses = start_losses(open_run(run).history, 4)  # without the loss of the final pass
    np.testing.assert_allclose(losses, [each.loss for each in sweep.factorizations])

    def stop(record):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        rank_sweep(V, [2, 3], max_iter=4, **asked, checkpoint=run, callbacks=[stop])
    said = done("info", run).stdout
    assert "status: interrupted" in said
    assert "models: 0 of 4 have ended" in said
    assert "chosen" not in said
    done("report", run, "-o", tmp_path / "page.html")
    assert "0 of 4 have ended" in (tmp_path / "page.html").read_text()


def test_a_sweep_whose_fits_have_ended_and_nothing_is_chosen_has_not_ended(V, tmp_path):
    run = tmp_path / "run"

    def stop(record):
        if all(member.outcome for member in open_run(run).progress.models) and record.iteration:
            raise InterruptedError

    asked = {"n_init": 2, "random_state": 0, "max_iter": 2, "tol": 0}
    with pytest.raises(InterruptedError):
        rank_sweep(V, [2, 3], **asked, checkpoint=run, callbacks=[stop])
    assert "status: interrupted" in done("info", run).stdout
    assert json.loads(done("info", run, "--json").stdout)["status"] == "running"
    rank_sweep(V, [2, 3], **asked, checkpoint=run)
    assert json.loads(done("info", run, "--json").stdout)["status"] == "max_iter"


def test_several_starts_of_a_fit(V, tmp_path):
    run = tmp_path / "run"
    asked = ["-k", 3, "--random-state", 0, "--max-iter", 5, "--tol", 0]
    said = done("fit", V, run, *asked, "--n-init", 4, "--halving").stdout
    assert "models: 4 of 4 have ended: 2 max_iter, 2 dropped" in said
    model = NMF(3, n_init=4, halving=True, random_state=0, max_iter=5, tol=0)
    model.fit(zarr.open_array(V, mode="r"))
    np.testing.assert_array_equal(open_run(run).H, model.components_)
    assert "drops the worse half" in refused(2, "fit", V, tmp_path / "one", *asked, "--halving")
