"""The page: what a run is, how it stands, and pictures of its components."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from dask.utils import format_bytes

from dasknmf.errors import RunError
from dasknmf.io.atomic import write_file
from dasknmf.plots import style
from dasknmf.plots.features import leading_of
from dasknmf.plots.report import facts, facts_many, figures, html, many
from dasknmf.plots.report.maps import maps_of
from dasknmf.store.run import Run, open_run

_MOST = 60
"""Components with a card."""
_LEADING = 10
"""Features named in a card."""


def write(run: Any, path: str | os.PathLike[str]) -> Path:
    """Write the page of a run, in one step: whoever has it open sees the old one or the new one.

    Parameters
    ----------
    run : Run, or the path, URL or Zarr store of one
    path : path
    """
    path = Path(path)
    write_file(path, page(run).encode())
    return path


def page(run: Any) -> str:
    """A run, finished or running, as one page of HTML.

    Parameters
    ----------
    run : Run, or the path, URL or Zarr store of one

    Returns
    -------
    html : str
        A document that loads nothing and runs nothing.

    Raises
    ------
    RunError
        If there is no run.
    """
    run = run if isinstance(run, Run) else open_run(run)
    status, advice = facts.status_of(run)
    name = str(run.store).removeprefix("file://").rstrip("/").rsplit("/", 1)[-1]
    warned = facts.warnings_of(run)
    shown = "" if advice in warned else f'<span class="soft">{escape(advice)}</span>'
    parts = [
        f"<h1>{escape(name)}</h1>",
        f'<p><span class="status">{escape(status)}</span>{shown}</p>',
        *(f'<p class="warning">{escape(warning)}</p>' for warning in warned),
        html.tiles(_tiles(run)),
        *many.sections(run),
        html.heading("Loss", _loss(run)),
        html.heading("Components", _components(run)),
        '<div class="columns">',
        html.heading("What was factorized", html.facts_table(facts.data_facts(run))),
        html.heading("Parameters", html.facts_table(facts.model_facts(run))),
        html.heading("Throughput", html.facts_table(facts.throughput_facts(run))),
        html.heading("Memory", html.facts_table(facts.memory_facts(run))),
        html.heading("Environment", html.facts_table(sorted(run.environment.items()))),
        "</div>",
    ]
    return html.document(f"{name}: dasknmf", parts)


def _tiles(run: Any) -> facts.Facts:
    n, m = run.shape
    tiles = [("samples × features", f"{n:,} × {m:,}"), ("components", facts_many.components_told(run))]
    ranks = facts_many.ranks_of(run)
    if len(ranks) > 1:
        tiles.append(("models", f"{len(ranks):,}"))
    last = facts.last_with_loss(run)
    if last is not None:
        tiles.append(("loss", f"{last.loss:.4g}"))
        if run.params["beta_loss"] == 2:
            tiles.append(("relative error", f"{facts.relative_error(run):.3g}"))
    tiles += [("exact passes", str(run.n_iter)), ("reads of V", f"{run.history.reads:g}")]
    exact = run.history.exact
    if exact:
        tiles.append(("per pass", facts.duration(float(np.median([record.seconds for record in exact])))))
    return tiles


def _loss(run: Any) -> str:
    if facts.last_with_loss(run) is None:
        return '<p class="soft">No pass has told a loss yet.</p>'
    header = ["pass", "phase", "loss", "at", "change", "seconds", "read", "largest process"]
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
    passes = f"<details><summary>all {len(rows)} passes</summary>{html.table(header, rows)}</details>"
    return figures.loss_curve(run) + html.facts_table(facts.loss_facts(run)) + passes


def _components(run: Any) -> str:
    try:
        H, shares = run.H, run.shares
    except RunError as error:
        if run.status != "running" and not facts_many.is_unfinished(run):
            raise
        return f'<p class="soft">There are none yet: {escape(str(error))}</p>'
    order = np.argsort(-shares, kind="stable")[:_MOST]
    maps = maps_of(run, order)
    note = ""
    if len(order) < len(H):
        note = f'<p class="soft">The {len(order)} largest of {len(H)}, by their share of WH.</p>'
    drawn = [None] * len(order) if maps is None else list(maps)
    cards = "".join(
        _card(run, int(component), H[component], float(shares[component]), image)
        for component, image in zip(order, drawn, strict=True)
    )
    return f'{note}<div class="cards">{cards}</div>'


def _card(run: Any, component: int, row: np.ndarray, share: float, drawn: np.ndarray | None) -> str:
    parts = [f"<h3>component {component} <small>{share:.1%} of WH</small></h3>"]
    if drawn is not None:
        parts.append(figures.picture(drawn, style.MAPS, f"map of component {component}"))
    layout, names = getattr(run, "layout", None), run.feature_names
    if names is None or layout is not None:
        parts.append(figures.spectrum(row, layout))
    if names is not None and layout is None:
        leading = leading_of(row, _LEADING)
        parts.append(html.bars((str(names[feature]), float(row[feature])) for feature in leading))
    return f'<div class="card">{"".join(parts)}</div>'
