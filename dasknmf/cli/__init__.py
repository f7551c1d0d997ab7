"""The command line. What it needs takes seconds to import; until then this hears its signals."""

from __future__ import annotations


def main() -> None:
    """Run the command that the arguments of this process name."""
    from dasknmf.cli import signals_early

    signals_early.listen()

    from dasknmf.cli.commands import main as command

    command()
