"""Text of messages."""

from __future__ import annotations

from numbers import Integral


def counted(number: float, noun: str, plural: str = "s") -> str:
    """A number with its noun, to which `plural` is appended unless the number is 1: "1 read", "2.5 reads"."""
    shown = f"{number:,}" if isinstance(number, Integral) else f"{number:g}"
    return f"{shown} {noun}" if number == 1 else f"{shown} {noun}{plural}"
