"""Stacks of images, factorized: xarray in, xarray out. Needs the ``xarray`` extra."""

from importlib import import_module
from typing import Any

__all__ = ["Stack", "StackNMF", "open_stack"]

_MODULES = {"Stack": "stack", "StackNMF": "model", "open_stack": "stack"}
"""Module of each public name, imported at the first use: the command line also runs without xarray."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
