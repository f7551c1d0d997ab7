"""Text of messages."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral


def counted(number: float, noun: str, plural: str = "s") -> str:
    """A number with its noun, to which `plural` is appended unless the number is 1: "1 read", "2.5 reads"."""
    shown = f"{number:,}" if isinstance(number, Integral) else f"{number:g}"
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}{plural}"


def pass_named(phase: str, iteration: int) -> str:
    """A pass for a line of a log: "exact pass 3", or the name of another phase."""
    return f"exact pass {iteration}" if phase == "exact" else phase


def objectives_named(objectives: Sequence[float | None]) -> str:
    """The objectives of the models that a pass has updated, for a line of a log."""
    known = sorted(each for each in objectives if each is not None)
    models = counted(len(objectives), "model")
    if not known:
        return models
    return f"{models}, objective {known[0]:.8g}" + (f" to {known[-1]:.8g}" if len(known) > 1 else "")
