"""The summary of a run in a few lines."""

from __future__ import annotations

from dask.utils import format_bytes

from dasknmf.plots.report import facts, models
from dasknmf.store.run import Run


def summary(run: Run) -> str:
    """A run in a few lines: data, parameters, progress, loss, findings, warnings and advice."""
    n, m = run.shape
    params, history = run.params, run.history
    status, advice = facts.status_of(run)
    loss = facts.loss_named(params["beta_loss"])
    lines = [
        f"V: {n} x {m}   components: {models.components_text(run)}   status: {status}",
        f"loss: {loss}   solver: {params['solver']}   init: {params['init']}",
    ]
    lines += _named(models.models_facts(run) + facts.layout_facts(run) + facts.preparation_facts(run))
    if len(history):
        seconds = sum(record.seconds for record in history)
        read = format_bytes(sum(record.bytes_read for record in history))
        retries = f"   retries of storage: {history.retries}" if history.retries else ""
        lines.append(
            f"passes: {run.n_iter}   reads of V: {history.reads:g}   {seconds:.1f} s   {read} read{retries}"
        )
    lines += [*_named(facts.loss_facts(run)), *_findings(run)]
    lines += [f"warning: {warning}" for warning in facts.warnings_of(run) if warning != advice]
    return "\n".join([*lines, advice])


def _findings(run: Run) -> list[str]:
    """The findings of a sweep or a consensus, or the progress of its models until it has ended."""
    if models.is_unfinished(run):
        return _aligned(models.model_table(run)) if len(run.history.evaluated) else []
    lines = []
    if models.is_sweep(run):
        lines += [*_aligned(models.rank_table(run)), f"chosen: {models.reason(run)}"]
    if models.is_consensus(run):
        lines += _named(models.consensus_facts(run))
    return lines


def _named(facts: facts.Facts) -> list[str]:
    return [f"{name}: {value}" for name, value in facts]


def _aligned(table: models.Table) -> list[str]:
    """A text table with right-aligned columns."""
    header, rows = table
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
