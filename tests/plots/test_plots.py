"""Plots: drawn values equal the given values, with names from any source."""

from __future__ import annotations

from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from dasknmf import open_run, plots
from dasknmf.core.history import History, Record
from tests.helpers import fitted

NAMES = ["<b>", "$\\frac", "a & b", *(f"g{i}" for i in range(11))]


@pytest.fixture(autouse=True)
def _no_window():
    backend = mpl.get_backend()
    mpl.use("Agg")
    yield
    plt.close("all")
    mpl.use(backend)


@pytest.fixture
def model(low_rank):
    return fitted(low_rank, n_components=3, init="random", max_iter=6, tol=0)[0]


def line(ax, label):
    return next(each for each in ax.get_lines() if each.get_label() == label)


def record(iteration, phase="exact", loss=None, at="end", reads=0.0, **measures):
    return Record(iteration, phase, loss, loss, at, None, 2.0, 0, 0, reads, measures=measures)


@pytest.mark.parametrize("against", ["iteration", "reads", "seconds"])
def test_convergence_shows_every_loss(model, against):
    ax = plots.convergence(model, against=against)
    exact = model.history_.exact
    curve = line(ax, "loss")
    assert curve.get_ydata() == pytest.approx([each.loss for each in exact])
    seconds = np.cumsum([each.seconds for each in model.history_])[-len(exact) :]
    expected = {
        "iteration": [each.iteration for each in exact],
        "reads": [each.reads for each in exact],
        "seconds": seconds,
    }
    assert curve.get_xdata() == pytest.approx(expected[against])
    low, high = ax.get_ylim()
    losses = curve.get_ydata()
    assert low < losses.min() < losses.max() < high
    assert losses.max() - losses.min() > 0.8 * (high - low) or ax.get_yscale() == "log"
    ax.figure.canvas.draw()


def test_of_two_losses_of_one_pair_the_later_is_drawn():
    losses = [
        record(1, loss=9.0),
        record(2, loss=5.0, at="entry"),
        record(2, "evaluation", loss=4.0, at="entry"),
    ]
    ax = plots.convergence(History(losses))
    assert line(ax, "loss").get_ydata() == pytest.approx([5.0, 4.0])
    assert ax.get_ylim()[1] < 6


def test_the_scale_is_logarithmic_where_the_range_is_wide():
    for last, scale in ((9.0, "linear"), (0.1, "log")):
        history = History([record(1, loss=10.0), record(2, loss=last)])
        assert plots.convergence(history).get_yscale() == scale


def test_losses_at_entry_stand_where_the_pass_before_ended():
    history = History(
        [
            record(0, "survey", reads=1),
            record(0, "start", reads=1),
            record(1, loss=9.0, at="entry", reads=2),
            record(2, loss=5.0, at="entry", reads=3),
            record(2, "evaluation", loss=4.0, at="entry", reads=4),
        ]
    )
    ax = plots.convergence(history)
    assert line(ax, "loss").get_xdata() == pytest.approx([0, 1, 2])
    assert line(ax, "returned pair").get_ydata() == pytest.approx([4.0])
    ax = plots.convergence(history, against="reads")
    assert line(ax, "loss").get_xdata() == pytest.approx([1, 2, 3])
    labels = ax.get_legend_handles_labels()[1]
    assert {"survey", "evaluation"} <= set(labels)  # the start read nothing: it has no width in reads


def test_rivals_and_held_out_entries():
    history = History(
        [
            record(1, loss=5.0, reads=1, holdout=6.0, **{"rival 0": 5.0, "rival 1": 5.5}),
            record(2, loss=4.0, reads=2, holdout=5.0, **{"rival 0": 4.0, "rival 1": 4.8}),
            record(3, loss=3.0, reads=3, holdout=5.5),
        ]
    )
    ax = plots.convergence(history)
    assert line(ax, "other start").get_ydata() == pytest.approx([5.5, 4.8])
    assert "held out" not in [each.get_label() for each in ax.get_lines()]
    held = ax.figure.axes[-1]
    assert line(held, "held out").get_ydata() == pytest.approx([6.0, 5.0, 5.5])
    assert held.get_ylim() == pytest.approx((5.5 - 0.56, 5.5 + 0.56))
    assert held.get_xlim() == ax.get_xlim()
    assert held.get_position().y1 < ax.get_position().y0
    ax.figure.canvas.draw()
    legend = ax.get_legend().get_window_extent()
    assert legend.y0 > ax.get_window_extent().y1
    far = History([record(i, loss=5.0 - i / 100, **{"rival 0": 4.9, "rival 1": 1e6}) for i in (1, 2, 3)])
    ax = plots.convergence(far)
    assert "far above" in ax.get_legend().get_texts()[-1].get_text()
    assert ax.get_ylim() == pytest.approx((4.98 - 0.0112, 4.98 + 0.0112))


def test_held_out_entries_in_axes_that_are_placed_by_hand():
    figure = plt.figure()
    ax = figure.add_axes((0.2, 0.2, 0.6, 0.6))
    plots.convergence(History([record(1, loss=5.0, holdout=0.5), record(2, loss=4.0, holdout=0.4)]), ax=ax)
    box, held = ax.get_position(), figure.axes[-1].get_position()
    assert (held.y0, box.y1) == pytest.approx((0.2, 0.8))
    assert held.y1 < box.y0


def test_convergence_of_nothing_and_of_what_has_none():
    assert plots.convergence(History()).get_lines() == []
    with pytest.raises(TypeError, match="ndarray has no history"):
        plots.convergence(np.ones(3))
    with pytest.raises(ValueError, match="against is 'time'"):
        plots.convergence(History(), against="time")


@pytest.mark.parametrize("kind", ["bars", "spectra", "images"])
def test_components(model, kind):
    axes = plots.components(model, kind=kind, image_shape=(2, 7), n_components=2)
    assert len(axes) == 2
    for ax, row in zip(axes, model.components_, strict=False):
        if kind == "images":
            assert (ax.get_images()[0].get_array() == row.reshape(2, 7)).all()
        elif kind == "bars":
            assert [bar.get_height() for bar in ax.patches] == pytest.approx(row)
        else:
            assert ax.get_lines()[0].get_ydata() == pytest.approx(row)


def test_spectra_are_drawn_in_the_order_of_their_coordinate():
    H = np.array([[1.0, 2.0, 3.0]])
    days = np.array(["2024-03-01", "2024-01-01", "2024-02-01"], dtype="datetime64[D]")
    (ax,) = plots.components(H, kind="spectra", coordinate=days)
    assert ax.get_lines()[0].get_ydata() == pytest.approx([2.0, 3.0, 1.0])
    ax.figure.canvas.draw()
    assert 2 <= len(ax.get_xticks()) <= 6


def test_many_bars_are_one_shape():
    H = np.random.default_rng(0).random((1, 500))
    (ax,) = plots.components(H)
    (shape,) = ax.patches
    assert shape.get_data().values == pytest.approx(H[0])


def test_names_of_features_are_no_mathematics(model):
    axes = plots.components(model, feature_names=NAMES)
    assert [label.get_text() for label in axes[0].get_xticklabels()] == NAMES
    top = plots.top_features(model, 3, NAMES)
    top[0].figure.canvas.draw()  # "$\\frac" would not be drawn as a formula
    axes[0].figure.canvas.draw()


def test_top_features(model):
    axes = plots.top_features(model, 4)
    for ax, row in zip(axes, model.components_, strict=True):
        leading = np.argsort(-row)[:4]
        assert [int(label.get_text()) for label in ax.get_yticklabels()] == leading.tolist()
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(row[leading])
    (few,) = plots.top_features(np.array([[0.0, 2.0, 0.0, 1.0]]), 3)
    assert [bar.get_width() for bar in few.patches] == [2.0, 1.0]


def test_of_a_run(tmp_path, low_rank):
    fitted(low_rank, n_components=3, max_iter=3, run={"checkpoint": tmp_path / "run"})
    run = open_run(tmp_path / "run")
    assert line(plots.convergence(str(tmp_path / "run")), "loss").get_ydata() == pytest.approx(
        [each.loss for each in run.history.exact]
    )
    axes = plots.components(run, kind="spectra")
    assert axes[2].get_lines()[0].get_ydata() == pytest.approx(run.H[2])


def test_abundances_share_a_scale_or_have_their_own():
    W = np.linspace([0.0, 0.0], [1.0, 10.0], 12)
    axes = plots.abundances(W, (3, 4))
    shown = [ax.get_images()[0] for ax in axes]
    assert (shown[1].get_array() == W[:, 1].reshape(3, 4)).all()
    assert shown[0].get_clim() == shown[1].get_clim()
    own = plots.abundances(W, (3, 4), scale="own", labels=["$a", "b"])
    assert own[0].get_images()[0].get_clim()[1] < 1.01 < own[1].get_images()[0].get_clim()[1]
    own[0].figure.canvas.draw()


def test_reconstruction(model, low_rank):
    W = model.transform(low_rank[:2])
    lines = plots.reconstruction(low_rank[:2], W, model)
    assert lines.shape == (2, 2)
    residual = low_rank[1] - W[1] @ model.components_
    assert lines[1, 1].get_lines()[0].get_ydata() == pytest.approx(residual)
    original = low_rank[0].copy()
    original[3] = np.nan
    images = plots.reconstruction(original, W[0], model, image_shape=(2, 7))
    assert images.shape == (1, 3)
    assert images[0, 2].get_images()[0].get_array().mask.sum() == 1
    images[0, 0].figure.canvas.draw()


@pytest.fixture
def sweep():
    """The table of a sweep of the ranks 2 to 6, unordered."""
    table = pd.DataFrame(
        {
            "n_components": [3, 2, 4, 6, 5],
            "relative_error": [0.4, 0.5, 0.2, 0.18, 0.19],
            "silhouette_mean": [0.9, 0.99, 0.95, np.nan, 0.5],
            "silhouette_min": [0.8, 0.98, 0.9, np.nan, -0.1],
            "cophenetic": [0.98, 0.99, 1.0, 0.9, 0.95],
            "holdout": [4.0, 5.0, 3.0, 3.3, np.nan],
            "holdout_std": [0.1, 0.2, 0.1, 0.3, np.nan],
        }
    ).set_index("n_components")
    return SimpleNamespace(to_dataframe=lambda: table, best=4, rule="holdout")


def test_ranks_are_drawn_in_their_order(sweep):
    ax = plots.ranks(sweep)
    held, error = ax.figure.axes[1:]
    assert line(ax, "mean silhouette").get_xydata().tolist() == [[2, 0.99], [3, 0.9], [4, 0.95], [5, 0.5]]
    assert line(ax, "smallest silhouette").get_ydata() == pytest.approx([0.98, 0.8, 0.9, -0.1])
    curve = line(error, "relative error")
    assert curve.get_xdata() == pytest.approx([2, 3, 4, 5, 6])
    assert curve.get_ydata() == pytest.approx([0.5, 0.4, 0.2, 0.19, 0.18])
    assert line(held, "held out").get_xydata().tolist() == [[2, 5], [3, 4], [4, 3], [6, 3.3]]
    spans = [segment[:, 1].tolist() for segment in held.collections[0].get_segments()]
    assert np.ravel(spans) == pytest.approx([4.8, 5.2, 3.9, 4.1, 2.9, 3.1, 3.0, 3.6])
    assert list(line(ax, "chosen: 4 (holdout)").get_xdata()) == [4, 4]
    assert held.get_xlim() == ax.get_xlim() == error.get_xlim()
    assert held.get_xticks().tolist() == [2, 3, 4, 5, 6]
    ax.figure.canvas.draw()
    assert ax.get_legend().get_window_extent().y0 > ax.get_window_extent().y1
    assert held.get_position().y1 < ax.get_position().y0
    drawn = [each.yaxis.label.get_window_extent() for each in ax.figure.axes]
    assert min(box.x0 for box in drawn) >= 0
    assert max(box.x1 for box in drawn) <= ax.figure.bbox.x1


def test_ranks_of_a_table_and_of_what_is_known(sweep):
    table = sweep.to_dataframe()
    ax = plots.ranks(table[["relative_error"]], best=3)
    assert list(line(ax, "chosen: 3").get_xdata()) == [3, 3]
    assert len(ax.figure.axes) == 2
    assert len(ax.get_yticks()) == 0
    mapping = {"n_components": [5, 3], "cophenetic": [0.9, 0.8], "loss": [1.0, 2.0]}
    figure, given = plt.subplots()
    ax = plots.ranks(mapping, stability="cophenetic", ax=given)
    assert ax is given
    assert line(ax, "cophenetic correlation").get_ydata() == pytest.approx([0.8, 0.9])
    assert line(figure.axes[1], "D(V | WH)").get_ydata() == pytest.approx([2.0, 1.0])


@pytest.fixture
def agreed():
    """Three clusters of nine spectra each, and three distant spectra, which were filtered."""
    rng = np.random.default_rng(0)
    stack = np.eye(4)[np.arange(30) % 3] + 0.1 * rng.random((30, 4))
    stack[27:] = rng.random((3, 4))
    stack /= np.linalg.norm(stack, axis=1, keepdims=True)
    kept = np.arange(30) < 27
    density = np.where(kept, 0.05 + 0.1 * rng.random(30), 0.9)
    labels = np.where(kept, np.arange(30) % 3, -1)
    return SimpleNamespace(stack=stack, kept=kept, labels=labels, density=density, density_threshold=0.5)


def test_consensus(agreed):
    grid, histogram = plots.consensus(agreed)
    image = np.asarray(grid.get_images()[0].get_array())
    order = np.concatenate([np.flatnonzero(agreed.labels == cluster) for cluster in range(3)])
    rows = agreed.stack[order]
    between = np.linalg.norm(rows[:, None] - rows, axis=2)
    # The blocks of the clusters, whatever their order within.
    blocks = [
        np.sort(each.reshape(3, 9, 3, 9).swapaxes(1, 2).reshape(9, 81), axis=1) for each in (image, between)
    ]
    assert blocks[0] == pytest.approx(blocks[1], abs=1e-7)
    assert np.diagonal(image) == pytest.approx(np.zeros(27))
    # By hierarchy the neighbours are nearer than in the order of the runs.
    assert np.diagonal(image, 1).sum() < np.diagonal(between, 1).sum()
    left = grid.child_axes[0]
    assert [label.get_text() for label in left.get_yticklabels()] == ["0", "1", "2"]
    assert left.get_yticks().tolist() == [4, 13, 22]
    strip = np.asarray(left.get_images()[0].get_array())
    assert len(np.unique(strip[:, 0], axis=0)) == 3
    kept, filtered = (sum(bar.get_height() for bar in bars) for bars in histogram.containers)
    assert (kept, filtered) == (27, 3)
    assert list(line(histogram, "threshold: 0.5").get_xdata()) == [0.5, 0.5]
    grid.figure.canvas.draw()


def test_a_consensus_without_a_threshold_in_axes_that_are_given(agreed):
    agreed.density_threshold = 2.0
    figure, axes = plt.subplots(1, 2)
    grid, histogram = plots.consensus(agreed, ax=axes)
    assert grid.figure is figure
    assert not histogram.get_lines()


def test_axes_that_are_given_are_used():
    figure, grid = plt.subplots(2, 2)
    axes = plots.components(np.ones((3, 4)), ax=grid)
    assert [ax.figure for ax in axes] == [figure] * 3
    with pytest.raises(ValueError, match="ax has 1 Axes and there are 3 panels"):
        plots.components(np.ones((3, 4)), ax=grid[0, 0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.components(np.ones(3)), r"H has shape \(3,\)"),
        (lambda: plots.components(np.ones((2, 3)), kind="lines"), "kind is 'lines'"),
        (lambda: plots.components(np.ones((2, 3)), kind="images"), "needs image_shape"),
        (lambda: plots.components(np.ones((2, 6)), kind="images", image_shape=(2, 2)), "does not hold 6"),
        (lambda: plots.components(np.ones((2, 3)), coordinate=[1, 2]), "each of 3 features"),
        (lambda: plots.components(np.ones((2, 3)), labels=["a"]), "1 labels and 2 components"),
        (lambda: plots.top_features(np.ones((2, 3)), 0), "n is 0"),
        (lambda: plots.top_features(np.ones((2, 3)), 1, ["a"]), "1 feature names and 3 features"),
        (lambda: plots.abundances(np.ones((6, 2)), (2, 2)), "does not hold 6 pixels"),
        (lambda: plots.abundances(np.ones((6, 2)), (2, 3), scale="log"), "scale is 'log'"),
        (lambda: plots.reconstruction(np.ones(4), np.ones(3), np.ones((2, 4))), "do not fit"),
        (lambda: plots.ranks({"n_components": [2], "loss": [1]}, stability="elbow"), "stability is 'elbow'"),
        (lambda: plots.ranks({"n_components": [2], "loss": [1]}, best=3), r"best is 3; the ranks are \[2\]"),
        (lambda: plots.ranks({"n_components": [2, 3]}), "neither silhouette_mean nor .* any of 2 ranks"),
        (lambda: plots.ranks(np.ones(3)), "ndarray has no column n_components"),
        (lambda: plots.ranks({"loss": [1.0]}), "dict has no column n_components"),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_hidden_entries_that_cost_powers_of_ten_stand_on_a_logarithmic_axis():
    told = {"n_components": [5, 6, 7], "silhouette_mean": [0.9, 0.9, 0.1]}
    steep = plots.ranks(told | {"holdout": [2.0, 1.7, 929.0]}).figure.axes
    flat = plots.ranks(told | {"holdout": [2.0, 1.7, 1.9]}).figure.axes
    assert ["log" in {ax.get_yscale() for ax in axes} for axes in (steep, flat)] == [True, False]
