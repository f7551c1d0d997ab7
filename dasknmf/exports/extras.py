"""Libraries of the ``anndata`` extra, asked for by what cannot be written without them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dasknmf.errors import SourceError


def needed(name: str) -> Any:
    """The library of this name.

    Raises
    ------
    SourceError
        If it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise SourceError(
            f"tables of cells and genes are written with {name}, which is not installed: install "
            "dasknmf[anndata]."
        ) from error
