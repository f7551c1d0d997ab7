"""Import what some of the project's extras bring: `python imports.py anndata,raster,s3`.

A wheel may need a library of the system that a slim image lacks, and pip does not look.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_PROJECT = "dasknmf"


def brought(extras: Iterable[str]) -> Iterator[str]:
    """The distributions that these extras of the project add to it, and those that it always needs."""
    for line in requires(_PROJECT) or []:
        needed = Requirement(line)
        if needed.marker is not None and not any(needed.marker.evaluate({"extra": each}) for each in extras):
            continue
        if canonicalize_name(needed.name) == _PROJECT:
            yield from brought(needed.extras)
        else:
            yield canonicalize_name(needed.name)


def modules(distributions: Iterable[str]) -> Iterator[str]:
    """What is imported of each: the module of its name; where there is none all that it has."""
    of: dict[str, list[str]] = {}
    for module, sources in packages_distributions().items():
        for source in sources:
            of.setdefault(canonicalize_name(source), []).append(module)
    for name in distributions:
        own = name.replace("-", "_")
        # Some ship their tests beside it, which need more.
        yield from [own] if own in of[name] else of[name]


if __name__ == "__main__":
    import_module(f"{_PROJECT}.estimator")
    for module in modules(brought(sys.argv[1].split(","))):
        import_module(module)
