"""Report: its numbers are those of the run, and a browser shows the page."""

from __future__ import annotations

import html as escaping
import re
import shutil
import subprocess
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner
from dask.utils import format_bytes
from sklearn import config_context

from dasknmf import NMF, Prepared, open_run
from dasknmf.cli.commands import main
from dasknmf.core.history import Record
from dasknmf.engine import accounting
from dasknmf.engine.accounting import PassStats
from dasknmf.plots.report import facts, maps, page, write_page
from dasknmf.store.convert import converted
from dasknmf.store.run import Run
from dasknmf.store.schema import PassRecord
from tests.helpers import fitted, stored

NAMES = ["<script>alert(1)</script>", '"&quot;', "$x", *(f"gene{i}" for i in range(11))]
BROWSER = shutil.which("chromium")


class Page(HTMLParser):
    """Text, tags and addresses of a document."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.words = [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with hostile names of features."""
    rng = np.random.default_rng(0)
    X = rng.poisson(rng.random((60, 3)) @ rng.gamma(0.3, size=(3, 14)) * 20 + 0.1).astype("f4")
    path = tmp_path_factory.mktemp("report") / "run.zarr"
    V = Prepared(X, target_sum=100.0, log1p=True, feature_names=NAMES)
    fitted(V, n_components=3, max_iter=5, tol=0, run={"checkpoint": path})
    return open_run(path)


@pytest.fixture(scope="module")
def text(run):
    return page(run)


def test_numbers_are_those_of_the_run(run, text):
    shown = Page(text).text
    last = run.history[-1]
    assert f"{last.loss:.8g}, at the end of the last pass" in shown
    assert f"{np.sqrt(2 * last.loss / run.sum_of_squares):.4g}" in shown
    assert "60 samples × 14 features" in shown
    assert "rows scaled to a sum of 100, log(1 + x)" in shown
    assert f"{run.history.reads:g} reads of V" in shown
    assert "reached max_iter" in shown
    assert format_bytes(sum(record.bytes_read for record in run.history)) in shown
    assert format_bytes(run.plan.memory_projected) in shown
    assert format_bytes(max(record.memory for record in run.history)) in shown
    for name, value in run.environment.items():
        assert f"{name} {value}" in shown
    for component, share in enumerate(run.shares):
        assert f"component {component} {share:.1%} of WH" in shown
    leading = NAMES[int(np.argmax(run.H[0]))]
    assert " ".join(leading.split()) in shown


def test_names_are_escaped_and_nothing_is_loaded(run, text):
    parsed = Page(text)
    assert "script" not in parsed.tags
    assert NAMES[0] not in text
    assert escaping.escape(NAMES[0]) in text  # the first of the feature names
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in parsed.addresses)
    assert not re.search(r"https?:|url\((?!#)|@import", text)


def test_shares_and_dead_components(run):
    parts = np.asarray(run.W.sum(axis=0)) * run.H.sum(axis=1)
    assert run.shares == pytest.approx(parts / parts.sum(), rel=1e-5)
    assert run.dead_components.tolist() == []


def test_shares_where_V_was_read_by_columns(tmp_path, low_rank):
    stored(tmp_path / "v", low_rank.T, (14, 30))
    fitted(str(tmp_path / "v"), n_components=3, max_iter=3, run={"checkpoint": tmp_path / "run"})
    wide = open_run(tmp_path / "run")
    assert wide.identity.transposed
    parts = np.asarray(wide.W.sum(axis=0)) * wide.H.sum(axis=1)
    assert wide.shares == pytest.approx(parts / parts.sum(), rel=1e-9)
    assert "by columns" in page(wide)


def test_components_that_are_zero_are_told(tmp_path):
    X = np.outer(np.arange(1.0, 30), [1.0, 2.0, 0.0])
    H = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    W = np.ones((29, 2))
    start = {"W": W, "H": H, "checkpoint": tmp_path / "run"}
    fitted(X, n_components=2, init="custom", solver="mu", max_iter=3, run=start)
    dead = open_run(tmp_path / "run").dead_components.tolist()
    assert dead == [1]
    assert "components that are zero throughout: 1; they" in Page(page(tmp_path / "run")).text


@pytest.mark.slow
def test_a_running_job(tmp_path, low_rank, small_panels):
    """The page at each commit of a fit: without components after the start, with components later."""
    stored(tmp_path / "v", low_rank, (30, 14))
    pages = []

    def look(record):
        pages.append((record, Page(page(tmp_path / "run")).text))

    def stop(record):
        if record.iteration == 2:
            raise InterruptedError

    callbacks = {"checkpoint": tmp_path / "run", "callbacks": [look, stop]}
    with pytest.raises(InterruptedError):
        fitted(str(tmp_path / "v"), n_components=3, init="nndsvda", max_iter=9, tol=0, run=callbacks)
    first, last = pages[0], pages[-1]
    assert first[0].phase != "exact"
    assert "No components yet" in first[1]
    assert "No pass has computed the loss yet" in first[1]
    assert re.search(r"running process \d+ on \S+ is writing this run", last[1])
    assert f"{last[0].loss:.8g}" in last[1]
    assert "at most 7 passes" in last[1]
    assert "component 2" in last[1]
    left = Page(page(tmp_path / "run")).text
    assert "interrupted The run was interrupted: repeat the same command or call" in left


def test_a_run_that_kept_less(tmp_path, low_rank):
    """A run without a plan and without measured memory."""
    fitted(low_rank, n_components=2, max_iter=2, run={"checkpoint": tmp_path / "run"})
    shutil.rmtree(tmp_path / "run" / "plan")
    old = open_run(tmp_path / "run")
    assert old.plan is None
    assert facts.memory_facts(old) != []
    content = asdict(old.history[-1])
    del content["memory"]
    assert converted(content, PassRecord).record().memory is None
    assert "projected" not in Page(page(old)).text


def test_memory_of_a_pass_is_the_largest_measurement(low_rank, monkeypatch):
    """Memory is given by a stand-in, as the kernel may reclaim pages of a real process."""
    measured = []

    def measure():
        measured.append(10**8 + 1000 * (7 * len(measured) % 5))
        return measured[-1]

    monkeypatch.setattr(accounting, "resident_bytes", measure)
    monkeypatch.setattr(accounting, "_REUSE_SECONDS", -1.0)
    model, _ = fitted(low_rank, "synchronous", n_components=2, max_iter=2, init="random")
    assert {record.memory for record in model.history_} <= set(measured)
    assert max(record.memory for record in model.history_) == max(measured)


def test_the_largest_process_is_kept():
    assert (PassStats(memory=5) + PassStats(memory=9) + PassStats()).memory == 9


def test_the_command(run, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("older")
    result = CliRunner().invoke(main, ["report", str(run.store.root), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert out.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [out]
    missing = CliRunner().invoke(main, ["report", str(tmp_path / "nowhere"), "-o", str(out)])
    assert missing.exit_code == 4
    assert "there is no run" in missing.output
    result = CliRunner().invoke(main, ["info", str(run.store.root)])
    assert "preparation: rows scaled to a sum of 100, log(1 + x)" in result.output


def test_maps_are_read_panel_by_panel(tmp_path, monkeypatch):
    layouts = pytest.importorskip("dasknmf.core.image_grid", reason="maps need the layout of a stack")
    import dask.array as da

    tiles = layouts.Tiles(((5, 4), (3, 6, 2)))
    image = np.random.default_rng(0).random((2, 9, 11))
    for cut in ((15 + 30 + 10, 12 + 24 + 8), (40, 1, 58), (99,)):
        W = da.from_array(tiles.rows(image), chunks=(cut, 2))
        assert (maps._read(W, tiles, np.array([1, 0])) == image[::-1]).all()
    monkeypatch.setattr(maps, "_SIDE", 3)
    assert (maps._read(W, tiles, np.array([0])) == image[:1, ::3, ::3]).all()


def scene(n_dates, n_bands, names):
    """A stack of two components with clouds, a corner without observations and an empty band."""
    import xarray as xr

    rng = np.random.default_rng(0)
    V = np.einsum("kyx,ktb->tbyx", rng.random((2, 6, 8)), rng.random((2, n_dates, n_bands)))
    V = np.ceil(V * 1000).astype("u2")
    V[rng.random(V.shape) < 0.1] = 0
    V[..., :2, :3] = 0
    V[-1, 0] = 0
    dates = np.datetime64("2024-01-01", "ns") + np.arange(n_dates) * np.timedelta64(30, "D")
    coords = {"time": dates, "band": names}
    return xr.DataArray(
        V, dims=("time", "band", "y", "x"), coords=coords, attrs={"_FillValue": 0, "scale_factor": 1e-4}
    )


@pytest.fixture(scope="module")
def cloudy(tmp_path_factory):
    pytest.importorskip("xarray")
    from dasknmf.stacks import StackNMF

    path = tmp_path_factory.mktemp("cloudy") / "run.zarr"
    model = StackNMF(2, random_state=0, max_iter=3, tol=0)
    with pytest.warns(UserWarning, match="X has 6 rows and 1 column without any observed entry"):
        model.fit(scene(4, 2, ["red", "nir"]), checkpoint=path, holdout=0.05)
    return open_run(path)


def test_what_is_missing_is_told(cloudy):
    assert (cloudy.n_unobserved_samples, cloudy.n_unobserved_features) == (6, 1)
    shown = Page(page(cloudy)).text
    told = CliRunner().invoke(main, ["info", str(cloudy.store.root)]).output
    for text in (shown, " ".join(told.replace(": ", " ").split())):
        assert re.search("samples without any observed entry:? 6 of 48", text)
        assert re.search("features without any observed entry:? 1 of 8", text)
        assert "missing nodata 0" in text
        assert "scale 0.0001" in text
        assert "hidden from the fit 5 % of the entries" in text
        assert text.count("y 6 × x 8") == text.count("time 4 × band 2") == 1
        assert "layout" not in text


def test_pixels_with_nothing_observed_are_grey(cloudy):
    drawn = maps.maps_of(cloudy, np.array([1]))
    unseen = np.isnan(drawn[0])
    assert unseen[:2, :3].all()
    assert unseen.sum() == 6
    assert drawn[0][~unseen] == pytest.approx(cloudy.layout.images(cloudy.rows.compute())[1][~unseen])


def test_features_of_a_stack_are_lines_or_an_image(cloudy):
    from dasknmf.plots.report import figures

    drawn = figures.spectrum(cloudy.H[0], cloudy.layout)
    assert "<image" not in drawn
    assert "<!-- Feb -->" in drawn  # dates below the lines
    assert "<!--  red -->" in drawn
    many = layout_of(scene(7, 7, [f"B{i}" for i in range(7)]))
    drawn = figures.spectrum(np.random.default_rng(0).random(49), many)
    assert "<image" in drawn
    assert "<!-- B6 -->" in drawn
    spectral = layout_of(scene(1, 3, [400.0, 900.0, 1400.0]).isel(time=0, drop=True))
    assert "<!-- 1400 -->" in figures.spectrum(np.ones(3), spectral)


def layout_of(stack):
    from dasknmf.stacks.stack import Stack

    return Stack(stack).layout


def test_a_page_with_maps(tmp_path, low_rank):
    layouts = pytest.importorskip("dasknmf.core.image_grid", reason="maps need the layout of a stack")
    layout = layouts.Layout(
        ("y", "x"), layouts.Tiles(((9,), (10,))), ("time", "<band>"), (2, 7), ("time", "<band>", "y", "x")
    )

    class Scene(Run):
        pass

    Scene.layout = layout
    fitted(low_rank, n_components=3, max_iter=2, run={"checkpoint": tmp_path / "run"})
    text = page(Scene(tmp_path / "run"))
    assert text.count("map of component") == 3
    assert "y 9 × x 10" in Page(text).text
    assert "<band>" not in text


def test_cards_in_notebooks(run, low_rank):
    shown = run._repr_html_()
    assert f"{run.history[-1].loss:.6g}" in shown
    assert "60 × 14" in shown
    assert shown.count("<svg") == 1
    unfitted = NMF(2)
    assert "sk-" in unfitted._repr_html_()
    model, _ = fitted(low_rank, n_components=3)
    for shown in (model._repr_html_(), model._repr_mimebundle_()["text/html"]):
        assert "3 × 14 features" in shown
        assert f"{model.history_[-1].loss:.6g}" in shown
    points = re.search(r'points="([^"]*)"', shown).group(1).split()
    assert len(points) == len(model.history_.exact)
    with config_context(display="text"):
        assert not hasattr(model, "_repr_html_")
        assert list(model._repr_mimebundle_()) == ["text/plain"]


def test_a_card_of_losses_that_reach_zero(tmp_path):
    history = [Record(i, "exact", loss, loss, "end", None, 1.0, 0, 0, i) for i, loss in enumerate([2.0, 0.0])]
    from dasknmf.core.html_repr import curve

    assert "nan" not in curve(history)
    assert curve(history[:1]) == ""


def browse(tmp_path, *options):
    """The output of headless Chromium, with a new profile and without a network."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    flags += ["--disable-sync", "--no-first-run", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'user'}"]
    command = [str(BROWSER), *flags, *options]
    return subprocess.run(command, check=True, capture_output=True, timeout=60, text=True).stdout


@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_in_a_browser(run, text, tmp_path):
    import matplotlib.image

    write_page(run, tmp_path / "report.html")
    picture = tmp_path / "page.png"
    browse(
        tmp_path, f"--screenshot={picture}", "--window-size=1200,900", f"file://{tmp_path / 'report.html'}"
    )
    pixels = matplotlib.image.imread(picture)
    assert pixels.shape[:2] == (900, 1200)
    ink = (pixels[..., :3].min(axis=2) < 0.5).mean()
    assert 0.005 < ink < 0.5
    blue = np.abs(pixels[..., :3] - np.array([0, 0x72, 0xB2]) / 255).max(axis=2) < 0.02
    assert blue.sum() > 500  # the curve of the loss

    # A phone, and one in which all details are open: the page itself is never wider than the screen.
    measured = [text, text.replace("<details>", "<details open>")]
    frames = "".join(
        f'<iframe style="width:390px;height:800px;border:0" srcdoc="{escaping.escape(each)}"></iframe>'
        for each in measured
    )
    script = (
        "onload = () => { for (const frame of document.querySelectorAll('iframe')) { const d = "
        "frame.contentDocument.documentElement; frame.title = d.scrollWidth + ' ' + d.clientWidth + ' ' + "
        "d.scrollHeight; frame.removeAttribute('srcdoc') } }"
    )
    (tmp_path / "phone.html").write_text(f"<meta charset=utf-8>{frames}<script>{script}</script>")
    dumped = browse(tmp_path, "--dump-dom", f"file://{tmp_path / 'phone.html'}")
    sizes = re.findall(r'title="(\d+) (\d+) (\d+)"', dumped)
    assert len(sizes) == 2
    for across, screen, height in sizes:
        assert int(across) == int(screen) == 390
        assert int(height) > 1500
