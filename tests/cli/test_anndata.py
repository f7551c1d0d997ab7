"""The command line on AnnData: from a store to its programs and back into it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata.io import write_elem

from dasknmf import NMF, Prepared, highly_variable, moments, open_run
from dasknmf.singlecell import top_genes
from dasknmf.singlecell.export import Exported
from tests.cli.calls import done, refused
from tests.helpers import stored
from tests.singlecell.cells import N_CELLS, N_GENES, STORES, K, cells, read, written

pytestmark = pytest.mark.filterwarnings("ignore:Forward slashes:FutureWarning")

FIT = ["-k", K, "--random-state", 0, "--tol", 0.001]


def files(path: Path) -> dict[str, bytes]:
    """The content of all files below a path."""
    found = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return {str(each.relative_to(path)): each.read_bytes() for each in found}


def prepared_by_hand(adata):
    """The highly variable genes after --normalize --log1p --scale, in float64."""
    X = adata.X if isinstance(adata.X, np.ndarray) else adata.X.toarray()
    totals = X.sum(axis=1, dtype=np.float64, keepdims=True)
    V = np.log1p(X * (1e4 / np.where(totals > 0, totals, 1)))[:, adata.var["highly_variable"]]
    deviation = V.std(axis=0, ddof=1)
    return V / np.where(deviation > 0, deviation, 1)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A run of the dense layer's cells, and the store that it was fitted to."""
    directory = tmp_path_factory.mktemp("fitted")
    path = written(cells(dense=True), directory, "h5ad")
    done("fit", path, directory / "run", *FIT, "--normalize", "--log1p", "--scale")
    return directory / "run", path


@pytest.mark.parametrize("dense", [False, True], ids=["csr", "dense"])
@pytest.mark.parametrize("kind", STORES)
def test_round_trip(tmp_path, kind, dense):
    adata = cells(dense=dense)
    path, run = written(adata, tmp_path, kind), tmp_path / "run"
    steps = ["--layer", "counts", "--normalize", "--log1p", "--scale"]
    result = done("fit", path, run, *FIT, *steps, "--max-iter", 4)
    assert "genes: 25 of 50, by var['highly_variable']" in result.stderr
    assert f"dasknmf export {run} {path}" in result.stdout
    before = files(path)
    done("export", run, path)
    again, found = read(path), open_run(run)
    genes = adata.var["highly_variable"].to_numpy()
    np.testing.assert_array_equal(again.obsm["X_nmf"], found.W.compute())
    np.testing.assert_array_equal(again.varm["NMF"][genes], found.H.T)
    assert not again.varm["NMF"][~genes].any()
    entry = again.uns["nmf"]
    assert entry["loss"] == found.history[-1].loss
    assert entry["params"]["normalize"] == 1e4
    V = prepared_by_hand(adata)
    WH = again.obsm["X_nmf"].astype(np.float64) @ again.varm["NMF"][genes].T
    assert entry["loss"] == pytest.approx(((V - WH) ** 2).sum() / 2, rel=1e-4)
    assert entry["variance_ratio"].sum() == pytest.approx((WH**2).sum() / (V**2).sum(), rel=1e-5)
    pd.testing.assert_frame_equal(again.obs, adata.obs)
    pd.testing.assert_frame_equal(again.var, adata.var)
    if kind == "h5ad":
        return
    # Earlier entries are unchanged; only the metadata of groups changes.
    after = files(path)
    metadata = {"zarr.json", ".zmetadata"}
    assert all(after[name] == value for name, value in before.items() if name not in metadata)
    assert [each for each in tmp_path.iterdir() if each.name.startswith(".")] == []
    consolidated = zarr.open_group(path, mode="r").metadata.consolidated_metadata
    assert (consolidated is None) == (kind == "unconsolidated")
    assert consolidated is None or "obsm/X_nmf" in consolidated.flattened_metadata


def test_steps_that_are_asked_for_are_done(tmp_path, fitted):
    run, path = fitted
    X = cells(dense=True).X
    genes = np.arange(1, N_GENES, 2)
    steps = {"columns": genes, "target_sum": 1e4, "log1p": True}
    deviation = moments(Prepared(X, **steps)).std()
    V = Prepared(X, **steps, scale=np.where(deviation > 0, deviation, 1))
    expected = NMF(K, random_state=0, tol=0.001).fit(V)
    np.testing.assert_allclose(open_run(run).H, expected.components_, rtol=1e-3, atol=1e-4)
    # The same command is resumed; another scale is another V.
    assert "status: converged" in done("fit", path, run, *FIT, "--normalize", "--log1p", "--scale").stdout
    assert "scale of Prepared: given in the run, not set now" in refused(
        4, "fit", path, run, *FIT, "--normalize", "--log1p"
    )


def test_the_genes_that_vary_most(tmp_path):
    adata = cells(dense=True)
    path = written(adata, tmp_path, "zarr3")
    result = done("fit", path, tmp_path / "run", *FIT, "--n-top-genes", 12, "--normalize", "1e6")
    assert "reading SOURCE once" in result.stderr
    chosen = highly_variable(moments(Prepared(adata.X, target_sum=1e6)), 12)
    assert open_run(tmp_path / "run").feature_names.tolist() == adata.var_names[chosen].tolist()


def test_several_sources_are_one_below_the_other(tmp_path):
    first, second = cells(dense=True), cells(dense=True, seed=5)
    second = second[:, ::-1].copy()
    paths = []
    for name, each in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        paths.append(written(each, tmp_path / name, "h5ad"))
    done("fit", *paths, tmp_path / "run", *FIT, "--all-genes")
    run = open_run(tmp_path / "run")
    assert run.shape == (2 * N_CELLS, N_GENES)
    assert run.feature_names.tolist() == first.var_names.tolist()


def test_a_stacked_run_is_exported_with_the_names_of_all(tmp_path):
    first, second = cells(dense=True), cells(dense=True, seed=5)
    second.obs_names = [f"other{i}" for i in range(N_CELLS)]
    second = second[:, ::-1].copy()
    paths = []
    for name, each in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        paths.append(written(each, tmp_path / name, "h5ad"))
    run, new, tables = tmp_path / "run", tmp_path / "new.h5ad", tmp_path / "tables"
    said = done("fit", *paths, run, *FIT).stdout
    assert f"dasknmf top {run}" in said
    assert "dasknmf export" not in said  # which one of the sources would refuse
    names = [part for path in paths for part in ("--names-from", path)]
    W, cell_names = open_run(run).W.compute(), [*first.obs_names, *second.obs_names]

    done("export", run, new, "--to", "h5ad", *names)
    adata = anndata.read_h5ad(new)
    np.testing.assert_array_equal(adata.obsm["X_nmf"], W)
    assert adata.obs_names.tolist() == cell_names
    assert adata.var_names.tolist() == first.var_names.tolist()
    np.testing.assert_array_equal(adata.varm["NMF"][1::2].T, open_run(run).H)

    done("export", run, tables, "--to", "csv", *names)
    assert pd.read_csv(tables / "usages.csv", index_col=0).index.tolist() == cell_names
    assert "has 240 cells, and the run was fitted to 480" in refused(
        4, "export", run, tmp_path / "more", "--to", "csv", *names[:2]
    )


def test_places_inside_a_file(tmp_path):
    """A layer is read as a matrix, and an AnnData inside of another has its own cells and genes."""
    adata = cells()
    path = written(adata, tmp_path, "h5ad")
    done("fit", path / "layers" / "counts", tmp_path / "layer", *FIT)
    assert open_run(tmp_path / "layer").shape == adata.shape
    with h5py.File(path, "r+") as file:
        write_elem(file.create_group("mod"), "rna", adata[:100])
    done("fit", path / "mod" / "rna", tmp_path / "run", *FIT)
    run = open_run(tmp_path / "run")
    assert run.shape == (100, N_GENES // 2)
    done("export", tmp_path / "run", path / "mod" / "rna")
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["mod/rna/obsm/X_nmf"][...], run.W.compute())
        assert "X_nmf" not in file["obsm"]


def test_options_of_an_anndata_need_one(tmp_path, fitted):
    _, path = fitted
    source = tmp_path / "v.zarr"
    stored(source, cells(dense=True).X, (60, N_GENES))
    run = tmp_path / "run"
    for option in (["--layer", "counts"], ["--mask-var", "highly_variable"], ["--all-genes"]):
        output = refused(2, "fit", source, run, *FIT, *option)
        assert f"{option[0]} can only be used with an AnnData" in output
    assert "give one of them" in refused(2, "fit", path, run, *FIT, "--all-genes", "--n-top-genes", 5)
    assert "and two are needed" in refused(2, "fit", path, *FIT)
    assert "has no layer 'other'" in refused(3, "fit", path, run, *FIT, "--layer", "other")
    assert "no column 'other'" in refused(2, "fit", path, run, *FIT, "--mask-var", "other")
    assert "holds no AnnData" in refused(3, "fit", source, path, run, *FIT)
    assert not run.exists()
    output = refused(2, "fit", source, run, *FIT, "--n-top-genes", 12)
    assert "have no names: give the path of an AnnData" in output
    assert not run.exists()
    done("fit", source, run, *FIT, "--normalize", "--log1p")  # steps that any matrix has
    assert open_run(run).preparation["target_sum"] == 1e4


def test_export_refuses_what_is_not_the_runs(tmp_path, fitted):
    run, path = fitted
    adata = cells(dense=True)
    for changed, message in (
        (adata[:100].copy(), "has 100 cells, and the run was fitted to 240"),
        (adata[:, 3:].copy(), r"lacks 1 of the 25 genes of the run (gene1)"),
    ):
        other = written(changed, tmp_path, "h5ad")
        before = other.read_bytes()
        assert message in refused(4, "export", run, other)
        assert other.read_bytes() == before
    assert "holds no AnnData" in refused(3, "export", run, _array(tmp_path))
    assert "there is no run" in refused(4, "export", tmp_path / "nowhere", path)


def _array(directory):
    stored(directory / "plain.zarr", np.ones((4, 4)), (4, 4))
    return directory / "plain.zarr"


@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "h5ad"])
def test_nothing_is_replaced_unasked(tmp_path, fitted, kind):
    run, _ = fitted
    adata = cells(dense=True)
    adata.obsm["X_nmf"] = np.zeros((N_CELLS, 7))
    path = written(adata, tmp_path, kind)
    before = files(path)
    assert "has obsm/X_nmf already" in refused(4, "export", run, path)
    assert files(path) == before
    done("export", run, path, "--key-added", "programs")
    again = read(path)
    assert again.obsm["X_nmf"].shape[1] == 7
    assert again.obsm["programs"].shape == again.obsm["X_nmf"][:, :K].shape
    done("export", run, path, "--overwrite")
    assert read(path).obsm["X_nmf"].shape == (N_CELLS, K)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["zarr2", "zarr3", "h5ad"])
def test_an_export_that_fails_leaves_the_store_as_it_was(tmp_path, fitted, kind, overwrite, monkeypatch):
    run, _ = fitted
    adata = cells(dense=True)
    if overwrite:
        adata.obsm["X_nmf"] = np.zeros((N_CELLS, 7))
    path = written(adata, tmp_path, kind)
    before = files(path)
    real = Exported.blocks

    def full(self):
        yield next(real(self))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Exported, "blocks", full)
    monkeypatch.setattr(Exported, "block_rows", 50)
    assert "No space left" in refused(3, "export", run, path, *["--overwrite"] * overwrite)
    if kind != "h5ad":
        assert files(path) == before
    again = read(path)
    assert set(again.obsm) == set(adata.obsm)
    assert not again.uns
    assert not again.varm
    assert [each for each in os.listdir(tmp_path) if each.startswith(".")] == []
    monkeypatch.undo()
    done("export", run, path, *["--overwrite"] * overwrite)


def test_W_is_written_a_block_at_a_time(tmp_path, fitted, monkeypatch):
    run, _ = fitted
    path = written(cells(dense=True), tmp_path, "zarr3")
    monkeypatch.setattr(Exported, "block_rows", 50)
    done("export", run, path)
    assert zarr.open_array(path / "obsm" / "X_nmf", mode="r").chunks == (50, K)
    np.testing.assert_array_equal(read(path).obsm["X_nmf"], open_run(run).W.compute())


def test_a_store_that_is_no_directory(fitted):
    from anndata.io import write_elem

    from dasknmf.data.anndata_file import open_anndata
    from dasknmf.singlecell import export_anndata
    from dasknmf.singlecell.entries import Keys
    from dasknmf.singlecell.export import factors_for

    run, _ = fitted
    store = zarr.storage.MemoryStore()
    write_elem(zarr.open_group(store, mode="w", zarr_format=2), "/", cells(dense=True))
    factors = factors_for(open_run(run), open_anndata(store))
    export_anndata.write_entries(store, factors, Keys(), overwrite=False)
    assert anndata.read_zarr(zarr.open_group(store)).obsm["X_nmf"].shape == (N_CELLS, K)


def test_a_new_file_and_tables(tmp_path, fitted):
    run, path = fitted
    new, tables = tmp_path / "new.h5ad", tmp_path / "tables"
    done("export", run, new, "--to", "h5ad", "--names-from", path)
    adata, W = anndata.read_h5ad(new), open_run(run).W.compute()
    np.testing.assert_array_equal(adata.obsm["X_nmf"], W)
    assert adata.obs_names.tolist() == cells().obs_names.tolist()
    assert adata.varm["NMF"].shape == (N_GENES, K)
    assert "exists" in refused(4, "export", run, new, "--to", "h5ad")
    done("export", run, new, "--to", "h5ad", "--overwrite")
    assert anndata.read_h5ad(new).var_names.tolist() == open_run(run).feature_names.tolist()

    done("export", run, tables, "--to", "csv", "--names-from", path)
    usages = pd.read_csv(tables / "usages.csv", index_col=0)
    spectra = pd.read_csv(tables / "spectra.csv", index_col=0)
    np.testing.assert_allclose(usages, W, rtol=1e-6)
    assert usages.index.tolist() == cells().obs_names.tolist()
    assert usages.columns.tolist() == spectra.index.tolist() == ["nmf0", "nmf1", "nmf2"]
    assert spectra.columns.tolist() == open_run(run).feature_names.tolist()
    assert "exists" in refused(4, "export", run, tables, "--to", "csv")
    done("export", run, tables, "--to", "csv", "--overwrite")
    assert pd.read_csv(tables / "usages.csv", index_col=0).index.tolist() == list(range(N_CELLS))
    assert sorted(os.listdir(tmp_path)) == ["new.h5ad", "tables"]


def test_top(fitted, tmp_path, monkeypatch):
    run, _ = fitted
    monkeypatch.setenv("COLUMNS", "80")
    lines = done("top", run).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    H, names = open_run(run).H, open_run(run).feature_names
    assert [line.split()[:2] for line in lines if line.startswith("nmf")] == [
        [f"nmf{c}", names[H[c].argmax()]] for c in range(K)
    ]
    content = json.loads(done("top", run, "-n", 3, "--json").stdout)
    assert [len(genes) for genes in content.values()] == [3] * K
    assert done("top", run, "-n", 3, "--csv").stdout.splitlines()[1] == ",".join(["nmf0", *content["nmf0"]])
    stored(tmp_path / "v.zarr", cells(dense=True).X, (60, N_GENES))
    done("fit", tmp_path / "v.zarr", tmp_path / "unnamed", *FIT)
    assert "have no names" in refused(2, "top", tmp_path / "unnamed")


def test_what_needs_no_pandas_and_what_says_that_it_does(fitted, tmp_path, monkeypatch):
    run, _ = fitted
    asked = ["top", run, "-n", 40, "--csv"]
    expected = top_genes(open_run(run), 40).to_csv()
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert done(*asked).stdout == expected
    done("top", run)
    for kind in ("csv", "h5ad"):
        target = tmp_path / f"new.{kind}"
        output = refused(3, "export", run, target, "--to", kind)
        assert "need the package pandas, which is not installed: pip install 'dasknmf[anndata]'" in output
        assert not target.exists()


def test_a_run_of_what_was_prepared_twice_is_not_repeated(tmp_path):
    X = cells(dense=True).X
    source = tmp_path / "v.zarr"
    V = Prepared(Prepared(stored(source, X, (60, N_GENES)), target_sum=100), log1p=True)
    NMF(K, random_state=0, tol=0.01).fit(V, checkpoint=tmp_path / "run")
    output = refused(2, "transform", tmp_path / "run", source, tmp_path / "w.zarr")
    assert "fitted to a Prepared of a Prepared; only a single preparation can be repeated" in output
    assert not (tmp_path / "w.zarr").exists()


@pytest.mark.parametrize(
    ("value", "target"),
    [("true", 1e4), ("1e6", 1e6), ("5000", 5000)]
    + [(wrong, None) for wrong in ("false", "0", "-1", "inf", "nan", "'much'", "[1e4]")],
)
def test_normalize_in_a_file(tmp_path, fitted, value, target):
    _, path = fitted
    config = tmp_path / "run.toml"
    config.write_text(f"normalize = {value}\n")
    run = tmp_path / "run"
    if target is None:
        rule = "it takes text or a number" if value.startswith("[") else "is not a positive number"
        assert rule in refused(2, "fit", path, run, *FIT, "--config", config)
        assert not run.exists()
    else:
        done("fit", path, run, *FIT, "--config", config)
        assert open_run(run).preparation["target_sum"] == target


def test_normalize_on_the_line(tmp_path, fitted):
    _, path = fitted
    for at, (given, target) in enumerate([(["--normalize"], 1e4), (["--normalize=500"], 500)]):
        done("fit", path, tmp_path / f"run{at}", *FIT, *given)
        assert open_run(tmp_path / f"run{at}").preparation["target_sum"] == target
    # --normalize before SOURCE takes SOURCE as its value: an error.
    assert "is not a positive number" in refused(2, "fit", "--normalize", path, tmp_path / "run", *FIT)
    assert "--normalize=1e4" in " ".join(done("fit", "--help").stdout.split())


def test_transform_prepares_new_cells_alike(tmp_path, fitted):
    _, path = fitted
    run, exact = tmp_path / "run", ["-k", K, "--random-state", 0, "--tol", 1e-9, "--max-iter", 500]
    done("fit", path, run, *exact, "--dtype", "float64", "--normalize", "--log1p", "--scale")
    shuffled = written(cells(dense=True)[:, ::-1].copy(), tmp_path, "h5ad")
    done("transform", run, shuffled, tmp_path / "w.zarr")
    W = zarr.open_array(tmp_path / "w.zarr", mode="r")[...]
    expected = open_run(run).W.compute()
    np.testing.assert_allclose(W, expected, rtol=1e-3, atol=1e-4 * expected.max())
    stored(tmp_path / "v.zarr", cells(dense=True).X, (60, N_GENES))
    output = refused(2, "transform", run, tmp_path / "v.zarr", tmp_path / "x.zarr", "--layer", "counts")
    assert "--layer can only be used with an AnnData" in output


def test_scanpy_plots_what_was_exported(tmp_path, fitted):
    sc = pytest.importorskip("scanpy")
    import matplotlib

    matplotlib.use("Agg")
    run, source = fitted
    path = tmp_path / "cells.h5ad"
    shutil.copy(source, path)
    done("export", run, path)
    adata = sc.read_h5ad(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own
        axes = sc.pl.embedding(adata, basis="nmf", color="batch", show=False)
    axes.figure.savefig(tmp_path / "nmf.png")
    assert (tmp_path / "nmf.png").stat().st_size > 5_000
