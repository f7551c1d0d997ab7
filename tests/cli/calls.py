"""Calls of the command line in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from dasknmf.cli.commands import main


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    """The result of a command that succeeds."""
    result = call(*arguments)
    assert result.exit_code == 0, result.output + str(result.exception)
    return result


def refused(code: int, *arguments: object) -> str:
    """The output of a command that ends with an exit code, and without a traceback."""
    result = call(*arguments)
    assert result.exit_code == code, result.output + str(result.exception)
    assert "Traceback" not in result.output
    return result.output
