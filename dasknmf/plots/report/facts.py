"""Facts about a run, for the command line and the report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from dask.utils import format_bytes

from dasknmf.core.history import Ending, Record
from dasknmf.core.losses import NAMES
from dasknmf.core.text import counted
from dasknmf.errors import RunError
from dasknmf.plots.report.models import components_text, is_unfinished
from dasknmf.store.run import Run
from dasknmf.store.schema import Entries, Preparation

Facts = list[tuple[str, str]]
"""Names and values, in the order in which they are shown."""

_DIGESTS = ("feature_weight", "mask", "sample_weight", "weights")
"""Inputs of which a run stores a digest only."""


def status_of(run: Run) -> tuple[str, str]:
    """The status of a run in one word, and advice."""
    if run.status != "running" and not is_unfinished(run):
        if run.identity.many is None:
            return run.status, Ending(run.status).advice
        outcomes = [member.outcome for member in run.progress.models]
        if (short := outcomes.count(Ending.MAX_ITER.value)) == 0:
            return Ending.CONVERGED.value, Ending.CONVERGED.advice
        reached = f"{short} of {len(outcomes)} models reached max_iter before they converged"
        return Ending.MAX_ITER.value, f"{reached}: raise max_iter or tol."
    if writer := run.writer:
        return "running", f"{writer} is writing this run."
    return "interrupted", "The run was interrupted: repeat the same command or call to resume it."


def loss_named(beta: float) -> str:
    """The name of a β-divergence."""
    return next((name for name, value in NAMES.items() if value == beta), f"β = {beta:g}")


def data_facts(run: Run) -> Facts:
    """The shape, storage and names of V."""
    n, m = run.shape
    facts = [("shape", f"{n:,} samples × {m:,} features")]
    plan = run.plan
    if plan is not None:
        kind = "sparse, " if plan.sparse else ""
        stored = f"{kind}{np.dtype(plan.stored_dtype)}, {format_bytes(plan.stored_bytes)} decoded"
        facts += [("V", stored), ("panels", f"{plan.panels:,}")]
    facts += layout_facts(run)
    names = run.feature_names
    if names is not None and len(names):
        first = ", ".join(map(str, names[:3]))
        facts.append(("feature names", f"{first}, … {names[-1]}" if len(names) > 4 else ", ".join(names)))
    if run.identity.transposed:
        facts.append(("read", "by columns"))
    return facts + preparation_facts(run)


def layout_facts(run: Run) -> Facts:
    """The dims of a stack of images."""
    layout = run.layout
    if layout is None:
        return []
    return [
        ("samples", _along(layout.sample_dims, layout.sample_shape)),
        ("features", _along(layout.feature_dims, layout.feature_shape)),
    ]


def preparation_facts(run: Run) -> Facts:
    """The steps of preparation, and the other inputs that must be the same when the run is resumed."""
    facts: Facts = []
    steps = run.identity.preparation
    while steps is not None:
        facts.append(("preparation", _steps(steps)))
        steps = steps.before
    if run.identity.entries is not None:
        facts += _entries_facts(run.identity.entries)
    digests = [(name.replace("_", " "), getattr(run.identity, name)) for name in _DIGESTS]
    return facts + [(name, f"given ({digest})") for name, digest in digests if digest is not None]


def _entries_facts(entries: Entries) -> Facts:
    """The missing values, scale and offset of V; a str is the digest of one value for each feature."""
    facts: Facts = []
    missing = []
    if entries.nodata is not None:
        each = isinstance(entries.nodata, str)
        missing.append("one nodata value per feature" if each else f"nodata {entries.nodata:g}")
    if entries.nan is not None:
        missing.append("NaN")
    if entries.negatives == "mask":
        missing.append("values below zero")
    if missing:
        facts.append(("missing", ", ".join(missing)))
    for name, value in (("scale", entries.scale), ("offset", entries.offset)):
        if value is not None:
            facts.append((name, "one per feature" if isinstance(value, str) else f"{value:g}"))
    if entries.negatives == "clip":
        facts.append(("values below zero", "taken as 0"))
    if entries.holdout is not None:
        facts.append(("hidden from the fit", f"{100 * entries.holdout:g} % of the entries"))
    return facts


def model_facts(run: Run) -> Facts:
    """The parameters of the model."""
    shown = {name: value for name, value in run.params.items() if name not in ("W", "H", "beta_loss")}
    shown["n_components"] = components_text(run)
    facts = [("loss", loss_named(run.params["beta_loss"]))]
    facts += [(name, _plain(value)) for name, value in shown.items() if value is not None]
    if run.params.get("random_state") is None:
        facts.append(("seed drawn", str(run.identity.seed)))
    facts.append(("dtype of W and H", str(np.dtype(run.identity.dtype))))
    return facts


def loss_facts(run: Run) -> Facts:
    """The last known loss and the pair (W, H) that it belongs to."""
    last = last_with_loss(run)
    if last is None:
        return []
    pair = f"at the {'end' if last.loss_at == 'end' else 'start'} of the last pass"
    if last.closed:
        pair = "of the returned W and H"
    elif last.models:
        pair = "of the model with the lowest loss"
    facts = [("loss D(V | WH)", f"{last.loss:.8g}, {pair}")]
    if run.params["beta_loss"] == 2:
        facts.append(("relative error ‖V − WH‖ / ‖V‖", f"{relative_error(run):.4g}"))
    if last.holdout is not None:
        facts.append(("loss of held-out entries", f"{last.holdout:.8g}"))
    return facts


def last_with_loss(run: Run) -> Record | None:
    """The last pass with a known loss."""
    return next((record for record in reversed(run.history) if record.loss is not None), None)


def relative_error(run: Run) -> float:
    """‖V − WH‖ / ‖V‖ of the last known Frobenius loss."""
    last = last_with_loss(run)
    squares = run.sum_of_squares
    return math.sqrt(2 * max(last.loss or 0.0, 0.0) / squares) if last is not None and squares else math.nan


def throughput_facts(run: Run) -> Facts:
    """The time and bytes of the passes, and an estimate of what is left."""
    records = list(run.history)
    if not records:
        return []
    seconds = math.fsum(record.seconds for record in records)
    nbytes = sum(record.bytes_read for record in records)
    facts = [
        ("reads of V", f"{run.history.reads:g}"),
        ("time in passes", duration(seconds)),
        ("bytes read", format_bytes(nbytes)),
        ("bytes written", format_bytes(sum(record.bytes_written for record in records))),
    ]
    if run.history.retries:
        facts.append(("retries of storage", str(run.history.retries)))
    exact = run.history.exact
    if exact:
        typical = float(np.median([record.seconds for record in exact]))
        facts.append(("seconds per exact pass", f"{typical:.3g} (median of {len(exact)})"))
        spent = math.fsum(record.seconds for record in exact)
        if spent:
            rate = sum(record.bytes_read for record in exact) / spent
            facts.append(("read in exact passes", f"{format_bytes(int(rate))} per second"))
        if run.status == "running":
            left = max(0, run.params["max_iter"] - run.n_iter)
            passes = counted(left, "pass", "es")
            facts.append(("left", f"at most {passes} until max_iter, {duration(left * typical)}"))
    return facts


def memory_facts(run: Run) -> Facts:
    """The projected and the largest measured memory of a process."""
    facts: Facts = []
    plan, seen = run.plan, memory_seen(run)
    if plan is not None:
        facts += [
            ("projected peak", f"{format_bytes(plan.memory_projected)} in one process"),
            ("limit", format_bytes(plan.memory_limit)),
            ("scheduler", f"{plan.scheduler}: {plan.processes} × {plan.threads} threads"),
        ]
    if seen is not None:
        facts.append(("measured peak", f"{format_bytes(seen)} in one process"))
    return facts


def memory_seen(run: Run) -> int | None:
    """Bytes of the largest process in any pass; None if no pass has measured memory."""
    return max((record.memory for record in run.history if record.memory), default=None)


def warnings_of(run: Run) -> list[str]:
    """Warnings to read before the factors are used."""
    found = []
    status, advice = status_of(run)
    if status in ("max_iter", "interrupted"):
        found.append(advice)
    try:
        dead = run.dead_components.tolist()
    except RunError:
        dead = []
    if dead:
        found.append(
            f"components that are zero throughout: {', '.join(map(str, dead))}; they add nothing to WH: fit "
            "fewer components, or give another init or random_state."
        )
    n, m = run.shape
    for count, size, name, place in (
        (run.n_unobserved_samples, n, "samples", "rows of W"),
        (run.n_unobserved_features, m, "features", "columns of H"),
    ):
        if count:
            found.append(
                f"{name} without any observed entry: {count:,} of {size:,}; their {place} are zero: leave "
                f"these {name} out, or check the missing values."
            )
    seen, plan = memory_seen(run), run.plan
    if plan is not None and seen is not None and seen > plan.memory_projected:
        found.append(
            f"a process used {format_bytes(seen)} of memory, more than the projected "
            f"{format_bytes(plan.memory_projected)}."
        )
    return found


def duration(seconds: float) -> str:
    """Seconds as hours, minutes or seconds."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _steps(steps: Preparation) -> str:
    found = []
    if steps.columns is not None:
        found.append("chosen columns")
    if steps.target_sum is not None:
        found.append(f"rows scaled to a sum of {steps.target_sum:g}")
    if steps.log1p:
        found.append("log(1 + x)")
    if steps.scale is not None:
        found.append("columns divided by their scale")
    return ", ".join(found) or "none"


def _along(dims: Any, shape: Any) -> str:
    return " × ".join(f"{name} {length:,}" for name, length in zip(dims, shape, strict=True))


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
