"""The structure of the package: layers, faces of folders, and the size of files and functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dasknmf
from tests.helpers import parsed

ROOT = Path(dasknmf.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ids = [str(path.relative_to(ROOT)) for path in FILES]


def test_imports_go_down():
    """The contracts of pyproject.toml, lazy imports included."""
    # In a process of its own: import-linter disables the loggers that there are.
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, check=True)


def test_few_doors():
    assert (
        len([path for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()])
        <= 14
    )


def own_face(path: Path) -> list[str]:
    """Names that a file imports from the ``__init__`` of its own folder, which imports the file."""
    room = "dasknmf." + path.relative_to(ROOT).parts[0]
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the direction"
            if node.module == room:
                folder = ROOT / path.relative_to(ROOT).parts[0]
                found += [
                    alias.name
                    for alias in node.names
                    if not (folder / f"{alias.name}.py").exists() and not (folder / alias.name).is_dir()
                ]
    return found


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_no_file_imports_the_face_of_its_own_folder(path):
    if path.parent != ROOT and path.stem not in ("__init__", "__main__"):
        assert own_face(path) == []


@pytest.mark.parametrize("path", FILES, ids=ids)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 500
