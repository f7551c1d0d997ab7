"""Text of messages."""

from __future__ import annotations

from numbers import Integral


def counted(number: float, noun: str, plural: str = "s") -> str:
    """A number with its noun, to which `plural` is appended unless the number is 1: "1 read", "2.5 reads"."""
    shown = f"{number:,}" if isinstance(number, Integral) else f"{number:g}"
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}{plural}"


def pass_named(phase: str, iteration: int) -> str:
    """A pass for a line of a log: "exact pass 3", or the name of another phase."""
    return f"exact pass {iteration}" if phase == "exact" else phase
