"""The drawn atlas: the counts that its docstring promises, in a store that anndata reads."""

from __future__ import annotations

import importlib.util
import itertools
import json

import numpy as np
import pytest
import scipy.sparse
import zarr
from click.testing import CliRunner

if importlib.util.find_spec("anndata") is None:
    pytest.skip("anndata is not installed", allow_module_level=True)

import anndata

from benchmarks import atlas
from benchmarks.atlas import BLOCK, Atlas
from benchmarks.matching import matched_cosines

# anndata 0.13 asks pandas 3 for an option that pandas 4 will not have.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")

SMALL = Atlas(3 * BLOCK + 100, 400, density=0.1, n_programs=5, n_donors=4, seed=3)


def test_rows_are_the_same_however_they_are_cut():
    whole = SMALL.rows(0, SMALL.n_cells)
    edges = [0, 1, 700, BLOCK, 2 * BLOCK + 5, SMALL.n_cells]
    pieces = [SMALL.rows(first, stop) for first, stop in itertools.pairwise(edges)]
    assert (scipy.sparse.vstack(pieces) != whole).nnz == 0
    assert whole.has_canonical_format
    assert (whole.dtype, whole.indices.dtype) == (np.float32, np.int32)
    assert (Atlas(SMALL.n_cells, 400, density=0.1, seed=4).block(0) != SMALL.block(0)).nnz > 0


@pytest.mark.parametrize("density", [0.02, 0.2])
def test_density_is_what_was_asked_for(density):
    V = Atlas(10_000, 500, density).rows(0, 10_000)
    assert V.nnz / V.shape[0] / V.shape[1] == pytest.approx(density, rel=0.02)


@pytest.mark.slow
def test_counts_are_negative_binomial_with_gamma_library_sizes():
    drawn = Atlas(40_000, 50, 0.6, n_programs=1, n_donors=1)
    V = drawn.rows(0, drawn.n_cells).toarray().astype(float)
    mean = drawn.programs[0] * V.sum(axis=1).mean()
    np.testing.assert_allclose(V.mean(axis=0), mean, rtol=0.05, atol=0.01)
    # Given the library size 1.5 times the mean, and a quarter of its square from Gamma(4)/4.
    largest = np.argsort(mean)[-10:]
    np.testing.assert_allclose(V.var(axis=0)[largest], (1.5 * mean + mean**2 / 4)[largest], rtol=0.1)
    # Genes of one cell share its library size only: what is left of their covariance is noise.
    first, second = largest[-2:]
    expected = mean[first] * mean[second] / 4
    assert np.cov(V[:, first], V[:, second])[0, 1] == pytest.approx(expected, rel=0.15)


def test_donors_are_runs_of_rows_with_mixes_of_their_own():
    donors = SMALL.donors()
    assert len(donors) == SMALL.n_cells
    assert (np.diff(donors) >= 0).all()
    assert np.array_equal(np.unique(donors), np.arange(4))
    V = SMALL.rows(0, SMALL.n_cells)
    profiles = np.array([V[donors == donor].sum(axis=0) for donor in range(4)])
    profiles = profiles / profiles.sum(axis=1, keepdims=True)
    assert np.abs(profiles[0] - profiles[1]).sum() > 0.1


def test_store_is_read_by_anndata(tmp_path):
    path = atlas.write(SMALL, tmp_path / "atlas.zarr", chunk=5000)
    adata = anndata.read_zarr(path)
    assert (SMALL.rows(0, SMALL.n_cells) != adata.X).nnz == 0
    assert adata.X.has_canonical_format
    assert adata.obs["donor"].cat.codes.tolist() == SMALL.donors().tolist()
    assert adata.obs_names.is_unique
    assert adata.var_names[7] == "gene 00007"
    np.testing.assert_allclose(adata.varm["planted"].T, SMALL.programs)
    np.testing.assert_allclose(atlas.planted_programs(path), SMALL.programs)
    group = zarr.open_group(path, mode="r")["X"]
    assert group["data"].chunks == group["indices"].chunks == (5000,)
    lazy = anndata.experimental.read_elem_lazy(group)
    assert (lazy[BLOCK : BLOCK + 10].compute() != SMALL.rows(BLOCK, BLOCK + 10)).nnz == 0


def test_store_is_the_same_for_any_chunk_and_threads_and_is_reused(tmp_path):
    one = atlas.write(SMALL, tmp_path / "one.zarr", chunk=1000, threads=1)
    two = atlas.write(SMALL, tmp_path / "two.zarr", chunk=70_000, threads=3)
    for name in ("data", "indices", "indptr"):
        left, right = (zarr.open_array(path, path=f"X/{name}", mode="r")[...] for path in (one, two))
        assert np.array_equal(left, right)
    before = atlas.described(one)
    atlas.write(Atlas(50, 20), one)
    assert atlas.described(one) == before


def test_usual_chunks_are_less_than_a_quarter_of_a_panel():
    assert atlas.usual_chunk(Atlas(20_000, 2_000)) * 8 == (4 << 20) / 8
    assert atlas.usual_chunk(Atlas(1_000_000, 20_000)) == 1_000_000


def test_matched_cosines_find_the_permutation():
    rng = np.random.default_rng(0)
    planted = rng.gamma(0.3, size=(6, 200))
    fitted = 7 * planted[rng.permutation(6)] + 1e-3
    cosines = matched_cosines(planted, fitted)
    assert cosines.shape == (6,)
    assert (cosines > 0.999).all()
    assert matched_cosines(planted, rng.gamma(0.3, size=(6, 200))).mean() < 0.7


def test_command_describes_what_it_drew(tmp_path):
    out = tmp_path / "out.json"
    arguments = f"{tmp_path / 'v.zarr'} --cells 2e3 --genes 300 --density 0.1 -k 3 --donors 2 --out {out}"
    result = CliRunner().invoke(atlas.main, arguments.split(), catch_exceptions=False)
    assert result.exit_code == 0
    (row,) = json.loads(out.read_text())["rows"]
    assert (row["cells"], row["genes"]) == (2000, 300)
    assert row["density"] == pytest.approx(0.1, rel=0.05)
    assert row["stored GB"] < row["decoded GB"] / 2
