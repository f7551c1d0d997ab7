"""The summary of a run in a few lines."""

from __future__ import annotations

from dask.utils import format_bytes

from dasknmf.plots.report.facts import (
    last_with_loss,
    layout_facts,
    loss_named,
    loss_place,
    preparation_facts,
    status_of,
    warnings_of,
)
from dasknmf.plots.report.models import (
    Table,
    components_text,
    consensus_facts,
    is_consensus,
    is_sweep,
    is_unfinished,
    model_table,
    models_facts,
    rank_table,
    reason,
)
from dasknmf.store.run import Run


def summary(run: Run) -> str:
    n, m = run.shape
    status, advice = status_of(run)
    lines = [f"V: {n} x {m}   components: {components_text(run)}   status: {status}"]
    lines.append(
        f"loss: {loss_named(run.params['beta_loss'])}   solver: {run.params['solver']}   "
        f"init: {run.params['init']}"
    )
    facts = models_facts(run) + layout_facts(run) + preparation_facts(run)
    lines += [f"{name}: {value}" for name, value in facts]
    if len(run.history):
        seconds = sum(record.seconds for record in run.history)
        read = format_bytes(sum(record.bytes_read for record in run.history))
        again = f"   retries of storage: {run.history.retries}" if run.history.retries else ""
        lines.append(
            f"passes: {run.n_iter}   reads of V: {run.history.reads:g}   {seconds:.1f} s   {read} read{again}"
        )
        last = last_with_loss(run)
        if last is not None:
            lines.append(f"loss D(V | WH): {last.loss:.8g}   {loss_place(last)}")
            if "holdout" in last.measures:
                lines.append(f"loss of held-out entries: {last.measures['holdout']:.8g}")
    lines += _found(run)
    lines += [f"warning: {warning}" for warning in warnings_of(run) if warning != advice]
    return "\n".join([*lines, advice])


def _found(run: Run) -> list[str]:
    """The findings of many factorizations, or their progress until they have ended."""
    if is_unfinished(run):
        return _aligned(model_table(run)) if len(run.history.evaluated) else []
    lines = [*_aligned(rank_table(run)), f"chosen: {reason(run)}"] if is_sweep(run) else []
    if is_consensus(run):
        lines += [f"{name}: {value}" for name, value in consensus_facts(run)]
    return lines


def _aligned(table: Table) -> list[str]:
    """A text table with right-aligned columns."""
    header, rows = table
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]
