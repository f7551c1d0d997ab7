"""The measures of the package that CI holds: ``python -m tests.measure`` prints them by folder.

Lines of code are lines that hold a token of code: no blank lines, comments or docstrings.
"""

from __future__ import annotations

import ast
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef
_LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True)
class Measure:
    """The measures of one file.

    Parameters
    ----------
    lines : int
        Lines of code.
    long : list of (str, int)
        Functions whose body has more than 70 lines of code.
    wide : list of (str, int)
        Functions with more than six parameters, ``self`` and ``cls`` aside.
    parameters, untyped : int
        Annotated parameters, and those of them that are ``Any``.
    """

    lines: int
    long: list[tuple[str, int]]
    wide: list[tuple[str, int]]
    parameters: int
    untyped: int


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.type not in _LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
            continue
        if isinstance(node.value.value, str):  # a docstring, or what documents the attribute above it
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def functions_of(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Every function of a module with its dotted name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | Function):
            name = f"{prefix}{node.name}"
            if isinstance(node, Function):
                yield name, node
            yield from functions_of(node, f"{name}.")
        else:
            yield from functions_of(node, prefix)


def measure(path: Path) -> Measure:
    """The measures of a file."""
    source = path.read_text()
    lines = code_lines(source)
    long, wide = [], []
    parameters = untyped = 0
    for name, function in functions_of(ast.parse(source)):
        first = function.body[0].lineno
        body = len(lines & set(range(first, (function.end_lineno or first) + 1)))
        if body > 70:
            long.append((name, body))
        given = function.args
        named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        own = [each for each in named if each.arg not in ("self", "cls")]
        if len(own) > 6:
            wide.append((name, len(own)))
        variable = [each for each in (given.vararg, given.kwarg) if each is not None]
        for each in (*own, *variable):
            if each.annotation is not None:
                parameters += 1
                untyped += ast.unparse(each.annotation) == "Any"
    return Measure(len(lines), long, wide, parameters, untyped)


def main(root: Path) -> None:
    folders: Counter[str] = Counter()
    parameters = untyped = 0
    said = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        found = measure(path)
        folders[relative.parts[0] if len(relative.parts) > 1 else "(top)"] += found.lines
        parameters += found.parameters
        untyped += found.untyped
        said += [f"{relative}: {name} has a body of {count} lines" for name, count in found.long]
        said += [f"{relative}: {name} has {count} parameters" for name, count in found.wide]
    said += [f"{folder:12} {count:6}" for folder, count in sorted(folders.items())]
    said.append(f"{'in all':12} {sum(folders.values()):6}")
    said.append(f"parameters that are Any: {untyped} of {parameters}, {untyped / parameters:.1%}")
    sys.stdout.write("\n".join(said) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "dasknmf")
