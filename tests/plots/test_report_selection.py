"""Reports and plots of sweeps and consensus runs: their numbers are the findings."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dasknmf import NMF, consensus, open_run, plots, rank_sweep
from dasknmf.cli.summary import summary
from dasknmf.plots.report import models, page
from tests.helpers import stored
from tests.plots.test_report import BROWSER, Page, browse
from tests.selection.studies import selected

pytestmark = [
    pytest.mark.filterwarnings("ignore:no rank has a smallest silhouette"),
    pytest.mark.filterwarnings("ignore:Maximum number of iterations"),
]


@pytest.fixture(scope="module")
def V(tmp_path_factory):
    rng = np.random.default_rng(3)
    X = rng.gamma(0.3, size=(60, 3)) @ rng.gamma(0.3, size=(3, 14)) + 0.01 * rng.random((60, 14))
    return stored(tmp_path_factory.mktemp("many") / "v.zarr", X, (60, 14))


@pytest.fixture(scope="module")
def swept(V, tmp_path_factory):
    path = tmp_path_factory.mktemp("swept") / "run"
    asked = {"n_init": 3, "holdout": 0.1, "random_state": 0, "max_iter": 6}
    return rank_sweep(V, [2, 3, 4], **asked, checkpoint=path), path


@pytest.fixture(scope="module")
def agreed(V, tmp_path_factory):
    path = tmp_path_factory.mktemp("agreed") / "run"
    return consensus(V, 3, n_init=6, random_state=0, max_iter=6, checkpoint=path), path


def test_a_sweep(swept):
    sweep, path = swept
    text = page(path)
    shown = Page(text).text
    assert f"{sweep.best} of 2–4 components 9 models" in shown
    assert f"{sweep.best} components, by the rule holdout: " in shown
    for value in sweep.columns["silhouette_mean"]:
        assert f"{value:.4g}" in shown
    chosen = re.search(r'<tr class="chosen"><td>(.*?)</td><td>(.*?)</td>', text)
    assert chosen.groups() == (f"→ {sweep.best}", f"{sweep.columns['loss'][sweep.best - 2]:.4g}")
    assert 'aria-label="stability and error of each number of components"' in text
    assert shown.count("of WH") == sweep.best
    assert f"n_components {sweep.best} of 2–4" in shown


def test_a_consensus(agreed):
    found, path = agreed
    text = page(path)
    shown = Page(text).text
    assert f"{found.kept.sum()} of 18 kept: density below 0.5" in shown
    assert f"silhouette {found.silhouette:.3f}" in shown
    assert 'aria-label="distances of spectra"' in text
    assert 'aria-label="densities of spectra"' in text


def test_several_starts(V, tmp_path):
    model = NMF(3, n_init=5, random_state=0, max_iter=4, tol=0).fit(V, checkpoint=tmp_path / "run")
    shown = Page(page(tmp_path / "run")).text
    assert "5 of 5 have ended: 5 max_iter" in shown
    lowest = np.argsort(model.start_losses_)
    told = re.search(r"start loss passes ended ((?:\d+ \S+ 4 max_iter ?){5})", shown).group(1).split()
    assert [int(each) for each in told[::4]] == lowest.tolist()
    assert told[1::4] == [f"{loss:.8g}" for loss in model.start_losses_[lowest]]


@pytest.mark.slow
def test_a_sweep_at_work_and_between_its_fits_and_its_choice(V, tmp_path):
    """The page counts ended models while others run; a run without a choice is not finished."""
    run, pages = tmp_path / "run", []

    def look(record):
        pages.append((record, Page(page(run)).text))
        if record.phase == "final" or (record.iteration == 3 and len(pages) > 6):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        rank_sweep(V, [2, 3], n_init=2, random_state=0, max_iter=3, checkpoint=run, callbacks=[look])
    assert "0 of 4 have ended" in pages[2][1]
    assert "components ended passes lowest loss highest loss 2 0 of 2 1 " in pages[2][1]
    assert re.search(r"running process \d+ on \S+ is writing this run", pages[2][1])
    before = next(text for record, text in reversed(pages) if record.phase != "final")
    assert "4 of 4 have ended: 4 max_iter" in before
    assert "Number of components" not in before
    assert "whose W is written at the end" in before


def test_each_start_is_a_thin_line(V):
    model = NMF(3, n_init=4, random_state=0, max_iter=5, tol=0).fit(V)
    ax = plots.convergence(model)
    lines = {line.get_label(): line for line in ax.get_lines()}
    drawn = lines["each of 4 models"]
    gaps = np.flatnonzero(np.isnan(drawn.get_ydata()))
    parts = np.split(drawn.get_ydata(), gaps)
    assert len(gaps) == 4
    for number in range(4):
        own = model.history_.of_model(number)
        known = {round(loss, 9) for loss in parts[number][np.isfinite(parts[number])]}
        assert known == {round(each.loss, 9) for each in own}
    low, high = ax.get_ylim()
    assert low < np.nanmin(drawn.get_ydata()) < np.nanmax(drawn.get_ydata()) < high
    assert (lines["lowest"].get_ydata() <= np.nanmax(drawn.get_ydata())).all()


def test_pictures_of_runs_are_those_of_what_was_found(swept, agreed):
    for draw, (found, path) in ((plots.ranks, swept), (plots.consensus, agreed)):
        for source in (path, open_run(path)):
            ours, theirs = (np.ravel(draw(each))[-1] for each in (source, found))
            assert ours.get_ylim() == theirs.get_ylim()
            told = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in (ours, theirs)]
            assert told[0] == told[1] != []


def test_the_conclusion_is_no_step_of_the_curve(swept):
    sweep, _ = swept
    ax = plots.convergence(sweep.history)
    lines = {line.get_label(): line for line in ax.get_lines()}
    last = sweep.history[-1]
    assert last.phase == "final"
    assert lines["returned pair"].get_ydata().tolist() == [last.loss]
    assert last.loss not in lines["lowest"].get_ydata()


def test_cards(swept, agreed):
    sweep, found = swept[0], agreed[0]
    shown = sweep._repr_html_()
    assert f"{sweep.best}, by the rule holdout" in shown
    assert shown.count("<svg") == 1
    assert f"{sweep.best} components" in repr(open_run(swept[1]))
    shown = found._repr_html_()
    assert f"{found.kept.sum()} of 18" in shown
    assert f"{found.silhouette:.3f}" in shown


def test_cells_of_the_chosen_row_are_escaped(swept, monkeypatch):
    monkeypatch.setattr(models, "rank_table", lambda run: (["<a>"], [["→ <b>"], ["c"]]))
    assert '<th>&lt;a&gt;</th></tr><tr class="chosen"><td>→ &lt;b&gt;</td></tr><tr><td>c</td></tr>' in page(
        swept[1]
    )


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_pages_are_as_wide_as_the_screen(swept, agreed, tmp_path):
    import html as escaping

    frames = "".join(
        '<iframe style="width:390px;height:800px;border:0" '
        f'srcdoc="{escaping.escape(page(path).replace("<details>", "<details open>"))}"></iframe>'
        for path in (swept[1], agreed[1])
    )
    script = (
        "onload = () => { for (const frame of document.querySelectorAll('iframe')) { const d = "
        "frame.contentDocument.documentElement; frame.title = d.scrollWidth + ' ' + d.clientWidth; "
        "frame.removeAttribute('srcdoc') } }"
    )
    (tmp_path / "phone.html").write_text(f"<meta charset=utf-8>{frames}<script>{script}</script>")
    dumped = browse(tmp_path, "--dump-dom", f"file://{tmp_path / 'phone.html'}")
    assert re.findall(r'title="(\d+ \d+)"', dumped) == ["390 390", "390 390"]


def test_a_consensus_of_a_rank_that_was_chosen(V, tmp_path):
    """The page of a run that is both a sweep and a consensus has both sections."""
    asked = {"n_init": 5, "random_state": 0, "max_iter": 6, "local_neighborhood_size": 0.4}
    sweep, found = selected(V, [2, 3], **asked, checkpoint=tmp_path / "run")
    shown = Page(page(tmp_path / "run")).text
    assert f"{sweep.best} components, by the rule silhouette: " in shown
    assert f"consensus 5 starts with {sweep.best} components" in shown
    assert f"silhouette {found.silhouette:.3f}" in shown
    said = summary(open_run(tmp_path / "run"))
    assert f"chosen: {sweep.best} components" in said
    assert f"spectra: {found.kept.sum()} of {5 * sweep.best} kept" in said
