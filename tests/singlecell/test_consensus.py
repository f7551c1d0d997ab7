"""Programs that many factorizations agree on, in an AnnData: cNMF's steps, one by one."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pytest
import scipy.optimize
from click.testing import CliRunner
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from dasknmf import highly_variable, moments, open_consensus, open_sweep
from dasknmf.cli.commands import main
from dasknmf.errors import DataError, SourceError
from dasknmf.singlecell import consensus_nmf, top_genes
from tests.selection.studies import selected
from tests.singlecell.cells import N_CELLS, N_GENES, K, cells, read, written

pytestmark = pytest.mark.filterwarnings("ignore:.*they are kept:UserWarning")

N_INIT = 6
USUAL = {"n_init": N_INIT, "max_iter": 12, "tol": 0, "density_threshold": 2.0}


def nnls(A, B):
    """Nonnegative least squares of each column of B on A's."""
    return np.stack([scipy.optimize.nnls(A, b)[0] for b in B.T], axis=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "run"


@pytest.fixture(scope="module")
def adata(checkpoint):
    """Cells after the choice among three ranks; whoever takes it leaves it as it is."""
    found = cells()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        consensus_nmf(found, [2, K, 4], checkpoint=checkpoint, **USUAL)
    return found


@pytest.fixture(scope="module")
def agreed(adata, checkpoint):
    return open_consensus(checkpoint)


def test_what_is_written(adata, agreed):
    usages, raw = adata.obsm["X_cnmf"], adata.obsm["X_cnmf_raw"]
    assert type(usages) is np.ndarray
    assert usages.shape == raw.shape == (N_CELLS, K)
    used = np.arange(N_CELLS) != 5  # nothing was counted there
    np.testing.assert_allclose(usages[used].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(usages[used], raw[used] / raw[used].sum(axis=1, keepdims=True), rtol=1e-6)
    assert not usages[5].any()
    variable = adata.var["highly_variable"].to_numpy()
    np.testing.assert_array_equal(adata.varm["cNMF"][variable], agreed.spectra.T)
    assert not adata.varm["cNMF"][~variable].any()
    np.testing.assert_allclose(adata.varm["cNMF"].sum(axis=0), 1)
    entry = adata.uns["cnmf"]
    assert entry["params"] == {
        "n_components": K,
        "mask_var": "highly_variable",
        "log1p": False,
        "scale": True,
        "local_neighborhood_size": 0.3,
        "random_state": 0,
        **USUAL,
    }
    np.testing.assert_array_equal(entry["density"], agreed.density)
    assert entry["silhouette"] == agreed.silhouette
    assert entry["loss"] == agreed.loss
    counts = adata.X.toarray()[:, variable].astype("f8")
    deviations = counts.std(axis=0, ddof=1)
    np.testing.assert_allclose(entry["scale"], np.where(deviations > 0, deviations, 1), rtol=1e-6)


def test_programs_over_all_genes_are_least_squares(adata, agreed):
    counts = adata.X.toarray().astype("f8")
    totals = counts.sum(axis=1, keepdims=True)
    tpm = 1e6 * counts / np.where(totals > 0, totals, 1)
    W = agreed.usages.compute().astype("f8")
    shares = W / np.maximum(W.sum(axis=1, keepdims=True), 1e-300)
    spectra = nnls(shares, tpm)
    np.testing.assert_allclose(adata.varm["cNMF_tpm"].T, spectra, rtol=1e-4, atol=1e-5 * spectra.max())

    seen = np.arange(N_GENES) != 7
    Z = (tpm[:, seen] - tpm[:, seen].mean(axis=0)) / tpm[:, seen].std(axis=0)
    scores = np.linalg.lstsq(W, Z, rcond=None)[0]
    np.testing.assert_allclose(
        adata.varm["cNMF_scores"][seen].T, scores, rtol=1e-4, atol=1e-5 * abs(scores).max()
    )
    assert not adata.varm["cNMF_scores"][7].any()
    best = np.asarray(adata.var_names)[seen][scores.argmax(axis=1)]
    assert top_genes(adata, 1, key="cNMF_scores")[1].tolist() == best.tolist()

    variable = adata.var["highly_variable"].to_numpy() & seen
    V = tpm[:, variable] / tpm[:, variable].std(axis=0, ddof=1)
    H = spectra[:, variable] / tpm[:, variable].std(axis=0)
    usages = nnls(H.T, V.T).T
    np.testing.assert_allclose(adata.obsm["X_cnmf_raw"], usages, rtol=1e-3, atol=1e-4 * usages.max())


def test_stability_and_error_of_each_rank_are_cnmfs(adata, checkpoint):
    sweep = open_sweep(checkpoint)  # which has columns of NaN
    stored = adata.uns["cnmf"]["k_selection"]
    assert stored["n_components"].tolist() == sweep.n_components == [2, K, 4]
    assert stored["best"] == sweep.best == K
    assert np.isnan(sweep.columns["holdout"]).all()
    V = adata.X.toarray()[:, adata.var["highly_variable"]] / adata.uns["cnmf"]["scale"]
    for at, rank in enumerate(sweep.n_components):
        found = [each for each in sweep.factorizations if each.n_components == rank]
        stack = np.concatenate([each.components.astype("f8") for each in found])
        stack /= np.linalg.norm(stack, axis=1, keepdims=True)
        labels = KMeans(rank, n_init=10, random_state=1).fit(stack).labels_
        assert stored["silhouette_mean"][at] == pytest.approx(silhouette_score(stack, labels))
        medians = np.stack([np.median(stack[labels == each], axis=0) for each in range(rank)])
        medians /= medians.sum(axis=1, keepdims=True)
        error = np.sum((V - nnls(medians.T, V.T).T @ medians) ** 2)
        assert 2 * stored["loss"][at] == pytest.approx(error, rel=1e-4)
        assert stored["relative_error"][at] == pytest.approx(np.sqrt(error / np.sum(V**2)), rel=1e-4)


def test_info_and_report_show_ranks_and_the_consensus(adata, checkpoint, tmp_path):
    shown = CliRunner().invoke(main, ["info", str(checkpoint)]).output
    for part in ("2–4 components, 6 starts of each: cNMF", f"→ {K}", "18 of 18 kept", "chosen: 3"):
        assert part in shown
    CliRunner().invoke(main, ["report", str(checkpoint), "-o", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert page.index("Number of components</h2>") < page.index("Consensus</h2>")


def test_the_chosen_rank_is_what_it_is_alone(adata):
    alone = consensus_nmf(adata, K, key_added="alone", copy=True, **USUAL)
    np.testing.assert_array_equal(alone.varm["alone"], adata.varm["cNMF"])
    np.testing.assert_array_equal(alone.obsm["alone"], adata.obsm["X_cnmf"])
    assert "k_selection" not in alone.uns["alone"]
    assert {"alone", "alone_scores", "alone_tpm"} < set(alone.varm)
    assert set(adata.uns) == {"cnmf"}


def test_a_run_that_has_ended_is_thresholded_anew_without_a_fit(adata, checkpoint, tmp_path):
    X, n_passes = adata.X, []
    kw = {"n_init": N_INIT, "max_iter": 3, "tol": 0, "random_state": 0, "rule": "stability"}
    kw["checkpoint"] = tmp_path / "run"
    sweep, _ = selected(X, [2, 3], density_threshold=2.0, callbacks=[n_passes.append], **kw)
    passes = len(n_passes)
    threshold = 1.4
    again, other = selected(X, [2, 3], density_threshold=threshold, callbacks=[n_passes.append], **kw)
    assert len(n_passes) == passes + 1  # which wrote the usages
    assert other.density_threshold == open_consensus(tmp_path / "run").density_threshold == threshold
    for name, values in sweep.columns.items():
        np.testing.assert_array_equal(again.columns[name], values)
    assert again.n_reads == sweep.n_reads + 2
    same, third = selected(X, [2, 3], density_threshold=threshold, callbacks=[n_passes.append], **kw)
    assert len(n_passes) == passes + 1  # it stands
    np.testing.assert_array_equal(third.usages, other.usages)
    left = open_sweep(tmp_path / "run")
    assert same.n_reads == left.n_reads == again.n_reads == again.history.reads + 3  # medians, two refits
    assert third.n_reads == open_consensus(tmp_path / "run").n_reads == other.n_reads
    assert third.rethreshold(2.0).kept.all()
    with pytest.warns(UserWarning, match="no rank has a smallest silhouette"):
        sweep, _ = selected(X, [2, 3], density_threshold=threshold, **kw | {"rule": "silhouette"})
    assert open_sweep(tmp_path / "run").rule == sweep.rule == "silhouette"
    with pytest.raises(DataError, match="densities are"):
        selected(X, [2, 3], density_threshold=1e-9, **kw)


def test_a_rank_whose_spectra_make_too_few_clusters_is_left_out():
    V = np.zeros((40, 4))
    V[:, 1] = np.random.default_rng(0).uniform(0.5, 1.5, 40)  # one feature: one program
    kw = {"n_init": 4, "random_state": 0, "rule": "stability", "alpha_H": 0.01}  # unused rows of H: 0
    sweep, agreed = selected(V, [1, 2], **kw)
    for name in ("loss", "instability"):
        assert np.isnan(sweep.columns[name]).tolist() == [False, True]
    assert sweep.best == agreed.n_components == 1
    np.testing.assert_array_equal(agreed.spectra, [[0, 1, 0, 0]])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rule": "holdout"}, ValueError, r"rule is 'holdout'; .* \['silhouette', 'stability'\]"),
        ({"rule": "elbow"}, ValueError, "rule is 'elbow'"),
        ({"holdout": 0.1}, TypeError, "holdout: not a parameter of NMF"),
        ({"n_components": [1]}, ValueError, "one program has no silhouette"),
    ],
)
def test_impossible_rules_are_refused_before_a_fit(options, error, message):
    passes = []
    usual = {"n_components": [2, 3], "n_init": 4, "callbacks": [passes.append], "max_iter": 1}
    with pytest.raises(error, match=message):
        selected(cells().X, **usual | options)
    assert not passes


@pytest.mark.parametrize("kind", ["h5ad", "zarr3"])
def test_backed_and_lazy_equal_in_memory(adata, tmp_path, kind):
    path = written(cells(), tmp_path, kind)
    if kind == "h5ad":
        stored = anndata.read_h5ad(path, backed="r")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lazy reading is experimental, and says so
            stored = anndata.experimental.read_lazy(path)
    consensus_nmf(stored, K, **USUAL)
    for name in ("X_cnmf", "X_cnmf_raw"):
        np.testing.assert_allclose(stored.obsm[name], adata.obsm[name], rtol=1e-3, atol=1e-4)
    for name in ("cNMF", "cNMF_scores", "cNMF_tpm"):
        expected = adata.varm[name]
        np.testing.assert_allclose(stored.varm[name], expected, rtol=1e-3, atol=1e-4 * abs(expected).max())


def test_what_is_written_survives_a_file(adata, tmp_path):
    again = read(written(adata, tmp_path, "h5ad")).uns["cnmf"]
    assert again["params"] == adata.uns["cnmf"]["params"]
    for name, values in adata.uns["cnmf"]["k_selection"].items():
        np.testing.assert_array_equal(again["k_selection"][name], values)


def test_pictures_are_drawn_from_what_is_kept(adata, agreed):
    pytest.importorskip("matplotlib").use("agg")
    from dasknmf import plots

    stored = adata.uns["cnmf"]["k_selection"]
    ax = plots.ranks(stored, best=stored["best"])
    drawn = next(line for line in ax.lines if line.get_label() == "mean silhouette")
    np.testing.assert_array_equal(drawn.get_xydata().T, [stored["n_components"], stored["silhouette_mean"]])
    clustergram, histogram = plots.consensus(agreed)
    assert clustergram.images[0].get_array().shape == (N_INIT * K, N_INIT * K)
    assert sum(bar.get_height() for bar in histogram.patches) == N_INIT * K


def test_genes_are_chosen_by_cnmfs_rule(adata):
    without = cells()
    del without.var["highly_variable"]
    counts = without.X.toarray().astype("f8")
    tpm = 1e6 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    quick = USUAL | {"n_init": 2, "max_iter": 2, "local_neighborhood_size": 0.5}
    for options, n_genes in [({}, N_GENES - 1), ({"n_top_genes": 10}, 10)]:
        chosen = consensus_nmf(without, 2, copy=True, **options, **quick).uns["cnmf"]
        np.testing.assert_array_equal(chosen["params"]["mask_var"], highly_variable(moments(tpm), n_genes))
        assert len(chosen["scale"]) == n_genes
    every = consensus_nmf(without, 2, copy=True, mask_var=None, scale=False, **quick).uns["cnmf"]
    assert "scale" not in every
    assert not {"mask_var", "n_top_genes"} & set(every["params"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_top_genes": 9, "mask_var": None}, ValueError, "choose genes in different ways"),
        ({"layer": "none"}, SourceError, "no layer 'none'"),
        ({"n_components": []}, ValueError, "n_components is empty"),
        ({"n_components": [3, 2]}, ValueError, "ascend"),
        ({"n_components": [2, 0]}, ValueError, "n_components is 0"),
        ({"n_components": [2, 3], "init": "nndsvd"}, ValueError, "nearly the same for every seed"),
        ({"n_init": 1}, ValueError, "n_init is 1"),
        ({"rule": "stability"}, ValueError, "chooses among several n_components, and 2 is one"),
        ({"mask_var": "none"}, ValueError, "var has no column 'none'"),
    ],
)
def test_what_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        consensus_nmf(cells(), **({"n_components": 2, "scale": False} | options))


@pytest.mark.parametrize(
    "options", [{"n_init": 1}, {"density_threshold": 0}, {"holdout": 0.1}, {"init": "nndsvd"}], ids=str
)
def test_what_is_refused_costs_no_read(options):
    unread = cells()
    unread.X.data[0] = -1  # whoever reads it says so
    with pytest.raises((ValueError, TypeError), match=next(iter(options))):
        consensus_nmf(unread, 2, n_top_genes=9, **options)


def test_negative_values_are_refused_with_where_counts_are():
    scaled = cells()
    scaled.X = scaled.X - 1.0 * (scaled.X > 3)
    scaled.X.data[0] = -1
    with pytest.raises(DataError, match="layer='counts'"):
        consensus_nmf(scaled, 2)
