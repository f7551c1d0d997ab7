"""Labels of arguments, matched with the names of X."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.exceptions import ConvergenceWarning

from dasknmf import NMF, Prepared
from dasknmf.cli.fixed_components import rows_at
from tests.helpers import stored

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__qualname__}"
)

GENES = list("abcdefgh")
BACKWARDS = GENES[::-1]
CELLS = [f"cell {number}" for number in range(50)]


@pytest.fixture
def known():
    return pd.DataFrame(np.random.default_rng(0).gamma(0.5, size=(3, 8)), columns=GENES)


@pytest.fixture
def X(known):
    W = np.random.default_rng(1).gamma(0.5, size=(50, 3))
    return pd.DataFrame(W @ known.to_numpy(), columns=GENES, index=CELLS)


def as_csv(known, path):
    known.to_csv(path / "known.csv")
    return rows_at(str(path / "known.csv"))


ROWS = {
    "DataFrame": lambda known, path: known,
    "CSV": as_csv,
    "DataArray": lambda known, path: xr.DataArray(
        known, dims=("program", "gene"), coords={"gene": list(known.columns)}
    ),
}


@pytest.mark.parametrize("columns", [BACKWARDS, ["z", *BACKWARDS]], ids=["backwards", "more"])
@pytest.mark.parametrize("kind", ROWS)
def test_fixed_components_are_matched_by_name(tmp_path, X, known, kind, columns):
    rows = ROWS[kind](known.assign(z=9.0)[columns], tmp_path)
    named = Prepared(stored(tmp_path / "X", X.to_numpy(), (20, 8)), feature_names=GENES)
    for V in (X, named):
        model = NMF(3, fixed_components=rows, random_state=0).fit(V)
        np.testing.assert_allclose(model.components_, known, rtol=1e-12)
        assert model.reconstruction_err_ < 1e-6 * np.linalg.norm(X)


def test_fixed_components_are_as_many_as_their_rows(X, known):
    assert NMF(fixed_components=known, max_iter=2).fit(X).components_.shape == (3, 8)


def test_labels_that_are_no_names_are_positions(X, known):
    """Without names in X, and with numbers as labels, there is nothing to match."""
    for rows, V in ((known[BACKWARDS], X.to_numpy()), (known[BACKWARDS].to_numpy(), X)):
        model = NMF(3, fixed_components=rows, max_iter=2).fit(V)
        np.testing.assert_array_equal(model.components_, known[BACKWARDS])
    weight = pd.Series(np.arange(1.0, 9.0), index=range(8, 0, -1))
    assert NMF(2, max_iter=2).fit(X, feature_weight=weight).feature_weight_.tolist() == list(range(1, 9))


@pytest.mark.parametrize("option", ["sample_weight", "feature_weight", "weights", "start"])
def test_options_are_matched_by_name(X, option):
    rng = np.random.default_rng(2)
    given = {
        "sample_weight": {"sample_weight": pd.Series(rng.random(50), CELLS)},
        "feature_weight": {"feature_weight": pd.Series(rng.random(8), GENES)},
        "weights": {"weights": pd.DataFrame(rng.random((50, 8)), CELLS, GENES)},
        "start": {
            "W": pd.DataFrame(rng.random((50, 2)), CELLS),
            "H": pd.DataFrame(rng.random((2, 8)), columns=GENES),
        },
    }[option]
    moved = {name: value.iloc[::-1] if len(value) > 2 else value for name, value in given.items()}
    moved = {
        name: value.iloc[:, ::-1] if getattr(value, "columns", [0])[0] == "a" else value
        for name, value in moved.items()
    }
    parameters = {"init": "custom"} if option == "start" else {}
    H, again = (
        NMF(2, random_state=0, max_iter=3, **parameters).fit(X, **each).components_ for each in (given, moved)
    )
    np.testing.assert_array_equal(H, again)


def test_prepared_takes_labels_by_name(X):
    scale = pd.Series(np.arange(1.0, 9.0), index=BACKWARDS)
    assert Prepared(X, scale=scale).preparation.scale.tolist() == list(range(8, 0, -1))
    assert Prepared(X, scale=scale, columns=[0, 1]).preparation.scale.tolist() == [8, 7]
    mask = pd.Series([True] * 2 + [False] * 6, index=BACKWARDS)
    assert Prepared(X, columns=mask).feature_names.tolist() == ["g", "h"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([*GENES[:7], "i"], r"fixed_components has no label for 1 of the 8 names in X \('h'; its own"),
        (["a", *GENES], r"fixed_components repeats the label of 1 of the 8 names in X \('a'; its own"),
        ([*map(str.upper, GENES)], r"no label for 8 of the 8 names in X \('a', .*, …; .* begin with 'A'\)"),
    ],
)
def test_other_labels_are_refused(X, known, labels, message):
    rows = pd.DataFrame(np.ones((1, len(labels))), columns=labels)
    with pytest.raises(ValueError, match=message):
        NMF(3, fixed_components=rows).fit(X)
