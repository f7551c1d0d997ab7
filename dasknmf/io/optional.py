"""Imports of optional libraries."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dasknmf.errors import SourceError


def needed(name: str, what: str = "tables of cells and genes", extra: str = "anndata") -> Any:
    """The module `name`, which is needed to read or write `what` and is installed by the extra.

    Raises
    ------
    SourceError
        If the library is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise SourceError(
            f"{what} need the package {name}, which is not installed: pip install 'dasknmf[{extra}]'."
        ) from error
