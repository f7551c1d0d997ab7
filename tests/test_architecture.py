"""One direction of import: a room knows only the rooms below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dasknmf
from tests.helpers import parsed

ROOT = Path(dasknmf.__file__).parent

ROOMS = [
    ["counters", "errors", "kernel", "layout", "ledger", "owners"],
    ["credentials", "losses", "placing", "storage_errors"],
    ["patience"],
    ["blocks"],
    ["passes"],
    ["history"],
    ["cards"],
    ["solvers"],
    ["starts"],
    ["panels"],
    ["inputs"],
    ["store"],
    ["engine"],
    ["stage"],
    ["workers"],
    ["schedulers"],
    ["model"],
    ["features", "identity", "transform", "validation"],
    ["settling"],
    ["fitted", "projecting", "turns"],
    ["fit"],
    ["running"],
    ["estimator"],
    ["functional", "plots"],
    ["selection"],
    ["__init__"],
    ["about_many", "anndata_entries", "anndata_parts", "outputs"],
    ["about"],
    ["singlecell", "stacks"],
    ["demo", "exports", "report"],
    ["cli"],
]
"""From the floor to the roof; rooms in one row do not know each other."""

LEVEL = {room: level for level, row in enumerate(ROOMS) for room in row}
FLOOR = {
    "counters",
    "errors",
    "kernel",
    "losses",
    "blocks",
    "passes",
    "solvers",
    "starts",
    "history",
    "layout",
    "owners",
    "placing",
}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Dotted names of every module that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the direction"
            names.add(str(node.module))
            if node.module in ("dasknmf", "dasknmf.store", "dasknmf.solvers", "dasknmf.starts"):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    here = room_of(path)
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "dasknmf" or len(parts) == 1:
            continue
        there = parts[1]
        if there in LEVEL and there != here:
            assert LEVEL[there] < LEVEL[here], f"{here} imports {there}"
        if path.parent == ROOT and there == here and len(parts) > 2:
            raise AssertionError(f"{path.name} and a package share a name")


def faced(path: Path) -> list[str]:
    """What a file imports from the ``__init__`` of its own room, which imports the file."""
    room = f"dasknmf.{room_of(path)}"
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name == room]
        elif isinstance(node, ast.ImportFrom) and node.module == "dasknmf":
            found += [alias.name for alias in node.names if f"dasknmf.{alias.name}" == room]
        elif isinstance(node, ast.ImportFrom) and node.module == room:
            found += [alias.name for alias in node.names if not (path.parent / f"{alias.name}.py").exists()]
    return found


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if path.parent != ROOT and path.stem not in ("__init__", "__main__")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_file_imports_its_own_rooms_face(path):
    assert faced(path) == []


@pytest.mark.parametrize(
    "path", [path for path in FILES if room_of(path) in FLOOR], ids=lambda path: path.stem
)
def test_the_floor_knows_no_dask_and_no_zarr(path):
    roots = {name.split(".")[0] for name in imported(path)}
    assert not roots & {"dask", "distributed", "zarr"}


def test_every_room_has_a_level():
    assert {room_of(path) for path in FILES} == set(LEVEL)


def test_the_readme_names_the_rooms():
    readme = (ROOT.parent / "README.md").read_text()
    for room in set(LEVEL) - {"__init__"}:
        assert f"`{room}`" in readme or f"`{room}/`" in readme, room


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 500
