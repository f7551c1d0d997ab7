"""A run in a few lines."""

from __future__ import annotations

from typing import Any

from dask.utils import format_bytes

from dasknmf.history import Ending
from dasknmf.losses import NAMES


def summary(run: Any) -> str:
    n, m = run.shape
    lines = [f"V: {n} x {m}   components: {run.params['n_components']}   status: {run.status}"]
    named = next((name for name, beta in NAMES.items() if beta == run.params["beta_loss"]), None)
    lines.append(
        f"loss: {named or run.params['beta_loss']}   solver: {run.params['solver']}   "
        f"init: {run.params['init']}"
    )
    if len(run.history):
        last = run.history[-1]
        seconds = sum(record.seconds for record in run.history)
        read = format_bytes(sum(record.bytes_read for record in run.history))
        lines.append(f"passes: {run.n_iter}   reads of V: {last.reads:g}   {seconds:.1f} s   {read} read")
        if last.loss is not None:
            closed = last.phase == "closing"
            where = "of these W and H" if closed else f"at the {last.loss_at} of the last pass"
            lines.append(f"loss D(V | WH): {last.loss:.8g}   {where}")
    if run.status != "running":
        lines.append(Ending(run.status).advice)
    return "\n".join(lines)
