"""Gene programs in an AnnData: what is written, what is refused, and that it is the same wherever X lies."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF, Prepared, open_run
from dasknmf.errors import DataError, RunError, SourceError
from dasknmf.singlecell import consensus_nmf, nmf, project, top_genes
from tests.singlecell.cells import N_CELLS, N_GENES, STORES, K, cells, read, written

QUIET = "ignore:.*they are kept:UserWarning"
pytestmark = [
    pytest.mark.filterwarnings(QUIET),
    pytest.mark.filterwarnings(f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__qualname__}"),
]

PREPARED = {"normalize": 1e4, "log1p": True, "scale": True}


@pytest.fixture
def adata():
    return cells()


def test_what_is_written(adata):
    assert nmf(adata, K, **PREPARED) is None
    W, programs, entry = adata.obsm["X_nmf"], adata.varm["NMF"], adata.uns["nmf"]
    assert type(W) is np.ndarray
    assert W.shape == (N_CELLS, K)
    assert programs.shape == (N_GENES, K)
    assert not programs[~adata.var["highly_variable"]].any()
    assert (
        programs[adata.var["highly_variable"]].any(axis=1).sum() == N_GENES // 2 - 1
    )  # gene 7 is never seen
    assert entry["params"]["mask_var"] == "highly_variable"
    assert entry["params"]["normalize"] == 1e4
    assert entry["params"]["n_components"] == K
    assert entry["params"]["random_state"] == 0
    assert entry["components"].tolist() == ["nmf0", "nmf1", "nmf2"]
    assert len(entry["scale"]) == N_GENES // 2
    assert entry["history"]["loss"][-1] == entry["loss"]
    assert not adata.X.toarray()[:, 7].any()  # counts stay counts


@pytest.mark.parametrize("kind", ["h5ad", "zarr2", "zarr3"])
def test_what_is_written_survives_a_file(adata, tmp_path, kind):
    nmf(adata, K, mask_var=np.arange(N_GENES) < 20)
    again = read(written(adata, tmp_path, kind))
    np.testing.assert_array_equal(again.obsm["X_nmf"], adata.obsm["X_nmf"])
    np.testing.assert_array_equal(again.varm["NMF"], adata.varm["NMF"])
    entry = again.uns["nmf"]
    assert entry["params"]["beta_loss"] == "frobenius"
    assert entry["params"]["mask_var"].sum() == 20
    assert entry["history"]["phase"].tolist() == adata.uns["nmf"]["history"]["phase"].tolist()
    np.testing.assert_array_equal(entry["variance_ratio"], adata.uns["nmf"]["variance_ratio"])


def test_a_mask_is_recorded_in_whatever_it_is_given(adata):
    mask = np.arange(N_GENES) < 20
    for given in (mask, mask.tolist(), tuple(mask.tolist()), pd.Series(mask, index=adata.var_names)):
        nmf(adata, K, mask_var=given)
        np.testing.assert_array_equal(adata.uns["nmf"]["params"]["mask_var"], mask)
    nmf(adata, K, mask_var=None)
    assert "mask_var" not in adata.uns["nmf"]["params"]


def test_one_name_for_all(adata):
    copied = nmf(adata, K, key_added="programs", copy=True, mask_var=None)
    assert {"programs"} == set(copied.obsm) == set(copied.varm) == set(copied.uns)
    assert not adata.obsm
    assert copied.varm["programs"].any(axis=1).sum() == N_GENES - 1


@pytest.mark.slow
def test_the_steps_are_scanpys(adata):
    sc = pytest.importorskip("scanpy")
    by_hand = adata.copy()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some cells have zero counts")
        sc.pp.normalize_total(by_hand, target_sum=1e4)
    sc.pp.log1p(by_hand)
    sc.pp.scale(by_hand, zero_center=False)
    kw = {"tol": 0, "max_iter": 20}
    nmf(adata, K, **PREPARED, **kw)
    nmf(by_hand, K, **kw)
    np.testing.assert_allclose(adata.obsm["X_nmf"], by_hand.obsm["X_nmf"], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("dense", [False, True], ids=["csr", "dense"])
@pytest.mark.parametrize("kind", STORES)
def test_in_memory_equals_lazy(tmp_path, kind, dense):
    adata = cells(dense=dense)
    path = written(adata, tmp_path, kind)
    kw = {"tol": 0, "max_iter": 20, "init": "random", **PREPARED}
    nmf(adata, K, **kw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy reading is experimental, and says so
        lazy = anndata.experimental.read_lazy(path)
    nmf(lazy, K, **kw)
    np.testing.assert_allclose(lazy.obsm["X_nmf"], adata.obsm["X_nmf"], rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(lazy.varm["NMF"], adata.varm["NMF"], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("layer", [None, "counts"])
@pytest.mark.parametrize("dense", [False, True], ids=["csr", "dense"])
def test_in_memory_equals_backed(tmp_path, dense, layer):
    adata = cells(dense=dense)
    path = written(adata, tmp_path, "h5ad")
    kw = {"tol": 0, "max_iter": 20, "init": "random", "layer": layer, **PREPARED}
    nmf(adata, K, **kw)
    backed = anndata.read_h5ad(path, backed="r")
    nmf(backed, K, **kw)
    np.testing.assert_allclose(backed.obsm["X_nmf"], adata.obsm["X_nmf"], rtol=2e-3, atol=2e-4)
    with pytest.raises(ValueError, match="a copy of it would need a file"):
        nmf(backed, K, copy=True)
    backed.file.close()


def test_a_share_is_what_a_component_explains(adata):
    nmf(adata, K, tol=1e-9, max_iter=2000, dtype=np.float64)
    W, H, entry = adata.obsm["X_nmf"], adata.varm["NMF"].T, adata.uns["nmf"]
    V = adata.X.toarray().astype(np.float64) * adata.var["highly_variable"].to_numpy()
    total = (V**2).sum()
    for c in range(K):
        alone = np.outer(W[:, c], H[c])
        # What V has of the component, and what the model gives it: equal at the optimum.
        assert entry["variance"][c] == pytest.approx((V * alone).sum(), rel=1e-3)
        assert entry["variance"][c] == pytest.approx((alone * (W @ H)).sum(), rel=1e-9)
    np.testing.assert_allclose(entry["variance_ratio"], entry["variance"] / total, rtol=1e-6)
    assert entry["variance_ratio"].sum() == pytest.approx(1 - 2 * entry["loss"] / total, abs=1e-5)


def test_cells_and_genes_without_counts_are_kept_and_counted_once(adata):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        nmf(adata, K)
    warned = [str(each.message) for each in caught if "they are kept" in str(each.message)]
    assert len(warned) == 1
    assert "cells without counts in the genes of any component: 1 of 240" in warned[0]
    assert "genes that are in no component: 1 of 25" in warned[0]
    assert not adata.obsm["X_nmf"][5].any()
    assert not adata.varm["NMF"][7].any()


def test_negative_values_are_refused_with_advice(adata):
    adata.X = adata.X.toarray() - 0.5
    with pytest.raises(DataError, match=r"Negative values.*factorize the counts.*adata\.raw"):
        nmf(adata, K)
    with pytest.raises(DataError, match="Negative values"):
        nmf(adata, K, **PREPARED)
    nmf(adata, K, layer="counts")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "count"}, r"no layer 'count'; its layers are \['counts'\]"),
        ({"mask_var": "hvg"}, r"no column 'hvg'; its boolean columns are \['highly_variable'\]"),
        ({"mask_var": "length"}, r"var\['length'\] is int64 .* one boolean for each of 50 genes"),
        ({"mask_var": np.ones(3, dtype=bool)}, r"mask_var is bool of shape \(3,\)"),
        ({"mask_var": np.zeros(N_GENES, dtype=bool)}, "mask_var selects none of 50 genes"),
        ({"obsm": "X_pca"}, r"no obsm 'X_pca'; its obsm are \[\]"),
        ({"layer": "counts", "obsm": "X"}, "one matrix is factorized"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(adata, arguments, message):
    with pytest.raises(ValueError, match=message):
        nmf(adata, K, **arguments)
    assert not adata.obsm


@pytest.mark.parametrize("absent", [{"layer": "count"}, {"obsm": "X_pca"}])
def test_what_is_absent_is_the_mistake_that_it_is_in_a_store(adata, absent):
    with pytest.raises(SourceError):
        nmf(adata, K, **absent)


def test_a_matrix_is_no_anndata_and_an_anndata_no_matrix(adata, tmp_path):
    for wrong in (adata.X, str(tmp_path)):
        with pytest.raises(TypeError, match="an AnnData has genes and cells"):
            nmf(wrong, K)
    with pytest.raises(SourceError, match=r"give adata\.X or a layer, or call dasknmf"):
        NMF(K).fit(adata)


def test_an_entry_of_obsm(adata):
    adata.obsm["X_protein"] = adata.X.toarray()[:, :12] + 1
    nmf(adata, K, obsm="X_protein")
    assert "NMF" not in adata.varm
    assert adata.uns["nmf"]["H"].shape == (K, 12)
    assert "mask_var" not in adata.uns["nmf"]["params"]
    with pytest.raises(ValueError, match="mask_var selects genes and obsm='X_protein' has no genes"):
        nmf(adata, K, obsm="X_protein", mask_var="highly_variable")


def test_a_run_goes_on_and_projects_other_cells(adata, tmp_path):
    nmf(adata, K, checkpoint=tmp_path / "run", tol=1e-7, max_iter=500, **PREPARED)
    run = open_run(tmp_path / "run")
    genes = adata.var_names[adata.var["highly_variable"]]
    assert run.feature_names.tolist() == genes.tolist()
    assert run.preparation["target_sum"] == 1e4
    project(adata, run, key_added="again")
    np.testing.assert_allclose(adata.obsm["again"], adata.obsm["X_nmf"], rtol=0.02, atol=2e-3)

    order = np.random.default_rng(0).permutation(N_GENES)
    shuffled = adata[:, order].copy()
    project(shuffled, tmp_path / "run", key_added="shuffled")
    np.testing.assert_allclose(shuffled.obsm["shuffled"], adata.obsm["again"], rtol=1e-3, atol=1e-5)
    copied = project(cells(seed=3), run, copy=True)
    assert copied.obsm["X_nmf"].shape == (N_CELLS, K)


def test_genes_that_are_missing_are_unobserved(adata):
    model = NMF(K, random_state=0).fit(Prepared(adata.X, feature_names=adata.var_names))
    fewer = adata[:, 4:].copy()
    with pytest.warns(
        UserWarning, match=r"genes of the model that adata lacks: 4 of 50 \(gene0, gene1, gene2, gene3\)"
    ):
        project(fewer, model)
    alone = NMF(K, random_state=0).fit(fewer.X)
    alone.components_ = model.components_[:, 4:]
    np.testing.assert_allclose(fewer.obsm["X_nmf"], alone.transform(fewer.X), rtol=1e-4, atol=1e-6)


def test_programs_that_cannot_be_found_in_other_cells(adata):
    with pytest.raises(ValueError, match="does not know the names of its genes"):
        project(adata, NMF(K).fit(adata.X))
    model = NMF(K, random_state=0).fit(Prepared(adata.X, feature_names=adata.var_names))
    other = adata.copy()
    other.var_names = [f"ENSG{j}" for j in range(N_GENES)]
    with pytest.raises(
        ValueError, match=r"none of the 50 genes of the model \(gene0, .*\) is among the 50 of adata"
    ):
        project(other, model)
    twice = adata.copy()
    twice.var_names = ["gene1", *adata.var_names[1:]]
    with pytest.raises(ValueError, match=r"adata has 1 gene of the model more than once \(gene1\)"):
        project(twice, model)


def test_top_genes(adata, tmp_path):
    nmf(adata, K, checkpoint=tmp_path / "run")
    table = top_genes(adata, 4)
    assert table.shape == (K, 4)
    assert table.index.tolist() == ["nmf0", "nmf1", "nmf2"]
    best = adata.var_names[adata.varm["NMF"].argmax(axis=0)]
    assert table[1].tolist() == best.tolist()
    assert top_genes(tmp_path / "run", 4).equals(table)
    assert top_genes(NMF.from_run(tmp_path / "run"), 4).equals(table)
    assert (top_genes(adata, 50).loc["nmf0", 40:] == "").all()  # zero loadings have no name
    with pytest.raises(ValueError, match="have no names"):
        top_genes(NMF(K).fit(scipy.sparse.csr_matrix(adata.X)))
    with pytest.raises(ValueError, match="varm has no 'other'"):
        top_genes(adata, key="other")


@pytest.mark.filterwarnings("ignore")
def test_scanpy_works_on_what_was_written(adata, tmp_path):
    sc = pytest.importorskip("scanpy")
    import matplotlib

    matplotlib.use("Agg")
    nmf(adata, K, **PREPARED)
    again = read(written(adata, tmp_path, "h5ad"))
    sc.pp.neighbors(again, use_rep="X_nmf", n_neighbors=5, method="gauss")  # umap's would be compiled first
    assert again.obsp["connectivities"].shape == (N_CELLS, N_CELLS)
    axes = sc.pl.embedding(again, basis="nmf", color="batch", show=False)
    axes.figure.savefig(tmp_path / "nmf.png")
    assert (tmp_path / "nmf.png").stat().st_size > 5_000


def test_a_mask_is_matched_by_name():
    adata = anndata.AnnData(np.random.default_rng(0).poisson(3.0, size=(30, 4)).astype("float32"))
    adata.var_names = list("abcd")
    nmf(adata, 2, mask_var=pd.Series([True, True, True, False], index=list("dcba")), tol=1e-3)
    assert adata.varm["NMF"].any(axis=1).tolist() == [False, True, True, True]
    with pytest.raises(ValueError, match="mask_var has no label for 1 of the 4 names in X"):
        nmf(adata, 2, mask_var=pd.Series([True] * 4, index=list("abce")))


def test_what_cannot_be_stored_is_refused_before_a_read(tmp_path, adata):
    adata.write_h5ad(tmp_path / "cells.h5ad")
    part = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")[:40]
    model = NMF(2, tol=1e-2).fit(Prepared(adata.X, feature_names=adata.var_names))
    functions = {
        nmf: {"n_components": 2},
        consensus_nmf: {"n_components": 2, "n_init": 4},
        project: {"model": model},
    }
    for function, arguments in functions.items():
        with pytest.raises(ValueError, match=r"adata is a view of 40 cells .* adata.to_memory\(\), or adata"):
            function(part, **arguments)
        with pytest.raises(ValueError, match=r"key_added is 'a/b'; .*give a name without it"):
            function(adata, key_added="a/b", **arguments)
    # The remedies of the message.
    for whole in (part.to_memory(), part.copy(tmp_path / "part.h5ad")):
        nmf(whole, 2, tol=1e-2)
        assert whole.obsm["X_nmf"].shape == (40, 2)
    with pytest.raises(RunError, match="the place of a run is True"):
        nmf(adata, 2, scale=True, checkpoint=True)


def test_missing_values_of_an_anndata(tmp_path):
    X = np.random.default_rng(0).random((40, 6)).astype("float32")
    X[3, 2] = np.nan
    right = NMF(2, random_state=0, missing_values="nan").fit(X).components_
    whole = anndata.AnnData(X)
    whole.write_h5ad(tmp_path / "proteins.h5ad")
    backed = anndata.read_h5ad(tmp_path / "proteins.h5ad", backed="r")
    for adata in (whole, backed):
        with pytest.raises(DataError, match=r"contains NaN.* give missing_values='nan'"):
            nmf(adata, 2)
        nmf(adata, 2, missing_values="nan")  # as the message says
        np.testing.assert_allclose(adata.varm["NMF"].T, right, rtol=1e-5)
    model = NMF(2, missing_values="nan").fit(Prepared(X, feature_names=whole.var_names))
    project(whole, model, key_added="others")
    assert np.isfinite(whole.obsm["others"]).all()
    with pytest.raises(ValueError, match=r"scale is True and missing_values is 'nan'.*give scale=False"):
        nmf(whole, 2, missing_values="nan", scale=True)
    with pytest.raises(ValueError, match=r"missing_values is 'nan'.*use nmf\(adata, missing_values=\)"):
        consensus_nmf(whole, 2, n_init=4, missing_values="nan")
