"""The HTML page about a run: its status, factors and passes.

Jinja2 fills the template, and escapes all texts.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from dask.utils import format_bytes
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from dasknmf.errors import RunError
from dasknmf.io.atomic import write_file
from dasknmf.plots import style
from dasknmf.plots.features import leading_of
from dasknmf.plots.report import facts, figures, models
from dasknmf.plots.report.maps import maps_of
from dasknmf.store.run import Run, open_run

_MOST = 60
"""The largest number of components with a card."""
_LEADING = 10
"""The largest number of features in a card."""
_FEW = 12
"""The largest number of starts whose table is not folded."""


@dataclass(frozen=True)
class ModelsPart:
    """A section about the models of a run that fits several."""

    heading: str
    facts: facts.Facts
    pictures: tuple[Markup, ...] = ()
    reason: str = ""
    table: models.Table | None = None
    folded: bool = False


@dataclass(frozen=True)
class Component:
    """One component: its column of W as a map, its row of H as a spectrum or as its largest features."""

    number: int
    share: float
    map: Markup | None
    spectrum: Markup | None
    leading: list[tuple[str, float]] | None


def write_page(run: Run | str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """Write the page of a run to a file in one step: a reader sees the old page or the new one.

    Parameters
    ----------
    run : Run, or the path, URL or Zarr store of a run
    path : path
        A file at the path is replaced.

    Returns
    -------
    path : Path

    Raises
    ------
    RunError
        If there is no run.
    """
    path = Path(path)
    write_file(path, page(run).encode())
    return path


def page(run: Run | str | os.PathLike[str]) -> str:
    """The HTML page of a run, finished or running.

    Parameters
    ----------
    run : Run, or the path, URL or Zarr store of a run

    Returns
    -------
    html : str
        A document without scripts and without references to other files.

    Raises
    ------
    RunError
        If there is no run.
    """
    run = run if isinstance(run, Run) else open_run(run)
    status, advice = facts.status_of(run)
    components, note = _components(run)
    return _template().render(
        name=str(run.store).removeprefix("file://").rstrip("/").rsplit("/", 1)[-1],
        status=status,
        advice=advice,
        warnings=facts.warnings_of(run),
        headline=_headline(run),
        models=_models(run),
        loss_curve=None if facts.last_with_loss(run) is None else figures.loss_curve(run),
        loss=facts.loss_facts(run),
        passes=_passes(run),
        components=components,
        note=note,
        facts=[
            ("Data", facts.data_facts(run)),
            ("Parameters", facts.model_facts(run)),
            ("Throughput", facts.throughput_facts(run)),
            ("Memory", facts.memory_facts(run)),
            ("Environment", sorted(run.environment.items())),
        ],
    )


@cache
def _template() -> Template:
    loader = PackageLoader("dasknmf.plots.report", ".")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("page.html")


def _headline(run: Run) -> facts.Facts:
    n, m = run.shape
    headline = [("samples × features", f"{n:,} × {m:,}"), ("components", models.components_text(run))]
    ranks = models.ranks_of(run)
    if len(ranks) > 1:
        headline.append(("models", f"{len(ranks):,}"))
    last = facts.last_with_loss(run)
    if last is not None:
        headline.append(("loss", f"{last.loss:.4g}"))
        if run.params["beta_loss"] == 2:
            headline.append(("relative error", f"{facts.relative_error(run):.3g}"))
    headline += [("exact passes", str(run.n_iter)), ("reads of V", f"{run.history.reads:g}")]
    exact = run.history.exact
    if exact:
        seconds = float(np.median([record.seconds for record in exact]))
        headline.append(("per pass", facts.duration(seconds)))
    return headline


def _models(run: Run) -> list[ModelsPart]:
    """Sections about several models; none for a run of one model."""
    about = models.models_facts(run)
    if not about:
        return []
    if models.is_unfinished(run):
        table = models.model_table(run) if len(run.history.evaluated) else None
        return [ModelsPart("Models", about, table=table)]
    if run.identity.many is None:
        table = models.start_table(run)
        return [ModelsPart("Starts", about, table=table, folded=len(table[1]) > _FEW)]
    parts = []
    if models.is_sweep(run):
        curves, table = figures.rank_curves(run), models.rank_table(run)
        parts.append(ModelsPart("Number of components", about, (curves,), models.reason(run), table))
        about = []
    if models.is_consensus(run):
        about = about + models.consensus_facts(run)
        parts.append(ModelsPart("Consensus", about, figures.agreement(run)))
    return parts


def _passes(run: Run) -> models.Table:
    header = ["pass", "phase", "loss", "at", "change", "seconds", "read", "peak memory"]
    rows = [
        [
            str(record.iteration),
            record.phase,
            "" if record.loss is None else f"{record.loss:.8g}",
            record.loss_at or "",
            "" if record.change is None else f"{record.change:.2e}",
            f"{record.seconds:.3g}",
            format_bytes(record.bytes_read),
            "" if not record.memory else format_bytes(record.memory),
        ]
        for record in run.history
    ]
    return header, rows


def _components(run: Run) -> tuple[list[Component], str]:
    """The cards, the largest share of WH first, and a note about components without a card."""
    try:
        H, shares = run.H, run.shares
    except RunError as error:
        if run.status != "running" and not models.is_unfinished(run):
            raise
        return [], f"No components yet: {error}"
    order = np.argsort(-shares, kind="stable")[:_MOST]
    maps = maps_of(run, order)
    images = [None] * len(order) if maps is None else list(maps)
    note = f"The {len(order)} largest of {len(H)}, by their share of WH." if len(order) < len(H) else ""
    return [
        _component(run, number, float(shares[number]), image)
        for number, image in zip(order.tolist(), images, strict=True)
    ], note


def _component(run: Run, number: int, share: float, image: np.ndarray | None) -> Component:
    row, layout, names = run.H[number], run.layout, run.feature_names
    drawn = None if image is None else figures.picture(image, style.MAPS, f"map of component {number}")
    if names is None or layout is not None:
        return Component(number, share, drawn, figures.spectrum(row, layout), None)
    leading = [(str(names[at]), float(row[at])) for at in leading_of(row, _LEADING)]
    return Component(number, share, drawn, None, leading)
