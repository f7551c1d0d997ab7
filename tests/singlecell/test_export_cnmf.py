"""The files of cNMF: what its `load_results` reads, and that an export that fails takes nothing away."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from dasknmf import NMF, consensus, open_consensus
from dasknmf.cli.commands import main
from dasknmf.errors import RunError, SourceError
from dasknmf.singlecell import consensus_nmf, export_cnmf
from tests.singlecell.cells import N_CELLS, N_GENES, K, cells, written

pytestmark = pytest.mark.filterwarnings("ignore:.*they are kept:UserWarning")

FILES = [
    "pbmc.gene_spectra_score.k_3.dt_2_0.txt",
    "pbmc.gene_spectra_tpm.k_3.dt_2_0.txt",
    "pbmc.k_selection_stats.df.npz",
    "pbmc.overdispersed_genes.txt",
    "pbmc.spectra.k_3.dt_2_0.consensus.txt",
    "pbmc.usages.k_3.dt_2_0.consensus.txt",
]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """An AnnData with what was found, the store that it was found in, and the run."""
    directory = tmp_path_factory.mktemp("run")
    path, run = written(cells(), directory, "h5ad"), directory / "run"
    adata = anndata.read_h5ad(path)
    consensus_nmf(adata, [2, K], n_init=4, max_iter=10, tol=0, density_threshold=2.0, checkpoint=run)
    return adata, path, run


def export(*arguments, code=0):
    result = CliRunner().invoke(main, ["export", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, result.output + str(result.exception)
    assert "Traceback" not in result.output
    return result.output


def table(path: Path) -> pd.DataFrame:
    """As cNMF reads its tables."""
    return pd.read_csv(path, sep="\t", index_col=0)


def test_tables_are_those_of_the_anndata(fitted, tmp_path):
    adata, path, run = fitted
    output = export(run, tmp_path / "out", "--cnmf", "pbmc", "--names-from", path)
    place = tmp_path / "out" / "pbmc"
    assert sorted(os.listdir(place)) == FILES
    assert all(name in output for name in FILES)
    usages = table(place / FILES[5])
    assert usages.index.tolist() == adata.obs_names.tolist()
    assert usages.columns.tolist() == ["1", "2", "3"]
    np.testing.assert_allclose(usages, adata.obsm["X_cnmf_raw"], rtol=1e-3, atol=1e-5)
    scores, tpm, spectra = (table(place / FILES[at]) for at in (0, 1, 4))
    for found, key in [(scores, "cNMF_scores"), (tpm, "cNMF_tpm")]:
        assert found.columns.tolist() == adata.var_names.tolist()
        assert found.index.tolist() == [1, 2, 3]
        expected = adata.varm[key].T
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * abs(expected).max())
    genes = (place / FILES[3]).read_text().split("\n")
    assert genes == spectra.columns.tolist() == adata.var_names[adata.var["highly_variable"]].tolist()
    np.testing.assert_allclose(spectra, open_consensus(run).spectra)


def test_ranks_are_a_table_that_needs_no_pickle(fitted, tmp_path):
    adata, _, run = fitted
    export(run, tmp_path, "--cnmf", "pbmc")
    with np.load(tmp_path / "pbmc" / FILES[2]) as file:  # which refuses pickles
        stats = pd.DataFrame(**file)
    assert stats.columns.tolist() == ["k", "local_density_threshold", "silhouette", "prediction_error"]
    stored = adata.uns["cnmf"]["k_selection"]
    np.testing.assert_array_equal(stats["k"], stored["n_components"])
    np.testing.assert_array_equal(stats["silhouette"], stored["silhouette_mean"])
    np.testing.assert_array_equal(stats["prediction_error"], 2 * stored["loss"])


def test_without_counts_what_needs_them_is_left_out(fitted, tmp_path):
    _, _, run = fitted
    assert "load_results needs, are not written" in export(run, tmp_path, "--cnmf", "pbmc")
    assert sorted(os.listdir(tmp_path / "pbmc")) == FILES[2:]
    usages = table(tmp_path / "pbmc" / FILES[5])
    assert usages.index.tolist() == list(range(N_CELLS))
    np.testing.assert_allclose(usages, open_consensus(run).usages.compute(), rtol=1e-5)


def test_counts_of_a_layer_and_a_consensus_of_one_rank_without_names(tmp_path):
    adata = cells()
    path = written(adata, tmp_path, "zarr3")
    agreed = consensus(
        adata.X, K, n_init=4, max_iter=3, density_threshold=2, random_state=0, checkpoint=tmp_path / "run"
    )
    export(tmp_path / "run", tmp_path, "--cnmf", "a", "--names-from", path, "--layer", "counts")
    place = tmp_path / "a"
    assert not (place / "a.k_selection_stats.df.npz").exists()
    assert table(place / "a.gene_spectra_score.k_3.dt_2.txt").shape == (K, N_GENES)
    spectra = table(place / "a.spectra.k_3.dt_2.consensus.txt")
    assert spectra.columns.tolist() == adata.var_names.tolist()
    np.testing.assert_allclose(spectra, agreed.spectra)


def test_replacement_needs_overwrite_and_is_complete(fitted, tmp_path):
    _, path, run = fitted
    export(run, tmp_path, "--cnmf", "pbmc", "--names-from", path)
    other = tmp_path / "pbmc" / "pbmc.usages.k_9.dt_0_5.consensus.txt"
    other.write_text("of another rank")
    before = {each.name: each.read_bytes() for each in (tmp_path / "pbmc").iterdir()}
    output = export(run, tmp_path, "--cnmf", "pbmc", code=4)
    assert FILES[5] in output
    assert FILES[3] not in output  # the genes are the same
    assert {each.name: each.read_bytes() for each in (tmp_path / "pbmc").iterdir()} == before
    export(run, tmp_path, "--cnmf", "pbmc", "--overwrite")
    assert sorted(os.listdir(tmp_path / "pbmc")) == sorted([*FILES[2:], other.name])


@pytest.mark.parametrize("at", range(1, 6))
def test_an_error_between_two_moves_takes_all_back(fitted, tmp_path, at, monkeypatch):
    """Usages and spectra are moved aside and in, scores of before are moved aside: five moves."""
    agreed = open_consensus(fitted[2])
    tables = export_cnmf.Tables(agreed, np.arange(N_CELLS).astype(str), agreed.feature_names)
    export_cnmf.write_cnmf(tmp_path, "pbmc", tables)
    (tmp_path / "pbmc" / FILES[0]).write_text("scores of before")
    before = {each.name: each.read_bytes() for each in (tmp_path / "pbmc").iterdir()}
    calls, rename = [], Path.rename

    def fails(path, target):
        calls.append(path)
        if len(calls) == at:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="No space left"):
        export_cnmf.write_cnmf(tmp_path, "pbmc", tables, overwrite=True)
    assert {each.name: each.read_bytes() for each in (tmp_path / "pbmc").iterdir()} == before


def test_an_error_before_the_first_file_leaves_no_directory(fitted, tmp_path):
    agreed = open_consensus(fitted[2])

    def whole():
        raise MemoryError

    tables = export_cnmf.Tables(agreed, np.arange(N_CELLS).astype(str), agreed.feature_names)
    with pytest.raises(MemoryError):
        export_cnmf.write_cnmf(tmp_path / "out", "pbmc", replace(tables, in_all_genes=whole))
    assert not os.listdir(tmp_path)
    for name in ("", "..", "a/b"):
        with pytest.raises(SourceError, match="is not a valid name"):
            export_cnmf.write_cnmf(tmp_path / "out", name, tables)


def test_what_is_refused(fitted, tmp_path):
    _, path, run = fitted
    for options in (["--to", "csv"], ["--xarray"], ["--key-added", "x"]):
        assert "--cnmf cannot be combined" in export(run, tmp_path, "--cnmf", "a", *options, code=2)
    assert "--layer needs --names-from" in export(run, tmp_path, "--cnmf", "a", "--layer", "counts", code=2)
    assert "can only be used with --cnmf" in export(run, path, "--layer", "counts", code=2)
    fewer = written(cells()[:9].copy(), tmp_path, "h5ad")
    assert "has 9 cells" in export(run, tmp_path / "out", "--cnmf", "a", "--names-from", fewer, code=4)
    NMF(2, max_iter=2, tol=0).fit(np.random.default_rng(0).random((9, 4)), checkpoint=tmp_path / "single")
    assert "is not a consensus" in export(tmp_path / "single", tmp_path / "out", "--cnmf", "a", code=4)
    with pytest.raises(RunError, match="no run"):
        open_consensus(tmp_path / "none")
