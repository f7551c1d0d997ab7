"""A run in a few lines."""

from __future__ import annotations

from typing import Any

from dask.utils import format_bytes

from dasknmf.about import (
    last_with_loss,
    layout_facts,
    loss_named,
    preparation_facts,
    status_of,
    warnings_of,
)


def summary(run: Any) -> str:
    n, m = run.shape
    status, advice = status_of(run)
    lines = [f"V: {n} x {m}   components: {run.params['n_components']}   status: {status}"]
    lines.append(
        f"loss: {loss_named(run.params['beta_loss'])}   solver: {run.params['solver']}   "
        f"init: {run.params['init']}"
    )
    lines += [f"{name}: {value}" for name, value in layout_facts(run) + preparation_facts(run)]
    if len(run.history):
        seconds = sum(record.seconds for record in run.history)
        read = format_bytes(sum(record.bytes_read for record in run.history))
        lines.append(
            f"passes: {run.n_iter}   reads of V: {run.history.reads:g}   {seconds:.1f} s   {read} read"
        )
        last = last_with_loss(run)
        if last is not None:
            closed = last.phase == "closing"
            where = "of these W and H" if closed else f"at the {last.loss_at} of the last pass"
            lines.append(f"loss D(V | WH): {last.loss:.8g}   {where}")
            if "holdout" in last.measures:
                lines.append(f"loss of held-out entries: {last.measures['holdout']:.8g}")
    lines += [f"warning: {warning}" for warning in warnings_of(run) if warning != advice]
    return "\n".join([*lines, advice])
