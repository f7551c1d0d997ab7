"""Of a run of many factorizations: how far they are, what they tell of ranks, what they agree on."""

from __future__ import annotations

from html import escape
from typing import Any

from dasknmf.plots.report import facts_many, figures, html

_FEW = 12
"""Starts whose table is not folded."""


def sections(run: Any) -> list[str]:
    """Parts of the page, each with its heading; none for a run of one model."""
    if len(facts_many.ranks_of(run)) == 1:
        return []
    told = html.facts_table(facts_many.many_facts(run))
    if facts_many.is_unfinished(run):
        return [html.heading("Models", told + _models(run))]
    if "many" not in run.identity:
        return [html.heading("Starts", told + _starts(run))]
    parts = []
    if facts_many.is_sweep(run):
        parts.append(html.heading("Number of components", _ranks(run) + told))
        told = ""
    if facts_many.is_consensus(run):
        facts = html.facts_table(facts_many.consensus_facts(run))
        parts.append(html.heading("Consensus", figures.agreement(run) + told + facts))
    return parts


def _models(run: Any) -> str:
    header, rows = facts_many.model_table(run)
    return html.table(header, rows) if len(run.history.evaluated) else ""


def _ranks(run: Any) -> str:
    header, rows = facts_many.rank_table(run)
    chosen = run.identity["many"]["ranks"].index(run.found["best"])
    why = f"<p>{escape(facts_many.reason(run))}.</p>"
    return figures.rank_curves(run) + why + html.table(header, rows, chosen)


def _starts(run: Any) -> str:
    header, rows = facts_many.start_table(run)
    table = html.table(header, rows)
    if len(rows) <= _FEW:
        return table
    return f"<details><summary>all {len(rows)} starts</summary>{table}</details>"
