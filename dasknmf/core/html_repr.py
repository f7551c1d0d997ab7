"""HTML representation of runs and fitted models in notebooks: facts and the curve of the loss."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from dasknmf.core.history import History, Record
from dasknmf.core.text import counted

_WIDTH, _HEIGHT, _MARGIN = 240, 64, 4
_FLOOR = 1e-300
"""Lower bound of losses before the logarithm is taken: an exact fit has loss 0."""


def card(title: str, facts: Iterable[tuple[str, str]], history: History) -> str:
    """An HTML element with facts and the loss curve, with colours for light and dark pages."""
    rows = "".join(
        '<tr><th style="text-align:left;font-weight:normal;opacity:.65;padding:1px 1em 1px 0">'
        f'{escape(name)}</th><td style="text-align:left;padding:1px 0">{escape(value)}</td></tr>'
        for name, value in facts
    )
    return (
        '<div style="display:inline-block;max-width:100%;border:1px solid rgba(128,128,128,.4);'
        'border-radius:6px;padding:.6em 1em;font-family:sans-serif;font-size:13px">'
        f'<div style="font-weight:600;margin-bottom:.4em;overflow-wrap:anywhere">{escape(title)}</div>'
        '<div style="display:flex;flex-wrap:wrap;gap:.4em 2em;align-items:center">'
        f'<table style="border-collapse:collapse;margin:0">{rows}</table>{curve(history)}</div></div>'
    )


def curve(history: Sequence[Record]) -> str:
    """The loss of each pass as an SVG line on a logarithmic scale; empty for fewer than two losses."""
    # The final pass evaluates a consensus of many factorizations, and is not a step of one of them.
    steps = [record.loss for record in history if record.phase != "final"]
    known = [loss for loss in steps if loss is not None and loss >= 0]
    logs = np.log(np.maximum(known, _FLOOR)) if known else np.zeros(0)
    logs = logs[np.isfinite(logs)]
    if len(logs) < 2:
        return ""
    span = float(np.ptp(logs)) or 1.0
    across = np.linspace(_MARGIN, _WIDTH - _MARGIN, len(logs))
    down = _MARGIN + (logs.max() - logs) / span * (_HEIGHT - 2 * _MARGIN)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    label = f"loss from {known[0]:.4g} to {known[-1]:.4g} in {len(logs)} passes"
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" style="max-width:100%"><title>{label}</title>'
        f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="2" '
        'stroke-linejoin="round"/></svg>'
    )


def progress_facts(history: History, n_iter: int) -> list[tuple[str, str]]:
    """Loss, passes, reads and time, as text."""
    last = next((record.loss for record in reversed(history) if record.loss is not None), None)
    seconds = math.fsum(record.seconds for record in history)
    return [
        ("loss D(V | WH)", "not known yet" if last is None else f"{last:.6g}"),
        ("passes", f"{n_iter} exact, {counted(history.reads, 'read')} of V"),
        ("time", f"{seconds:.3g} s" if seconds < 120 else f"{seconds / 60:.3g} min"),
    ]


class FittedCard:
    """A mixin for estimators: scikit-learn's HTML before a fit, the card after it.

    scikit-learn calls both methods only if ``set_config(display=...)`` enables diagrams.
    """

    def _repr_html_inner(self) -> str:
        inner: Any = super()
        return card_of_model(self) if hasattr(self, "history_") else inner._repr_html_inner()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        inner: Any = super()
        bundle: dict[str, str] = inner._repr_mimebundle_(**options)
        if "text/html" in bundle and hasattr(self, "history_"):
            bundle["text/html"] = card_of_model(self)
        return bundle


def card_of_model(model: Any, title: str = "", facts: Sequence[tuple[str, str]] = ()) -> str:
    """The card of a fitted `NMF`, with an optional title and further facts."""
    facts = [
        *facts,
        ("components", f"{model.n_components_} × {model.n_features_in_} features"),
        ("start", str(model.init_)),
        *progress_facts(model.history_, model.n_iter_),
    ]
    return card(title or " ".join(repr(model).split()), facts, model.history_)
