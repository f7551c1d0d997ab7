"""What a record tells by name, for whoever looks for a certain one."""

from __future__ import annotations

from typing import Any

from dasknmf.errors import RunDamagedError


class Told(dict[str, Any]):
    """Values by name; one that is missing, and was asked for, is damage.

    Parameters
    ----------
    what : str
        Where they come from, for messages.
    values : dict, optional
    """

    def __init__(self, what: str, values: dict[str, Any] | None = None) -> None:
        super().__init__(values or {})
        self._what = what

    def __missing__(self, name: str) -> Any:
        raise RunDamagedError(
            f"{self._what} has no {name!r}; it must be as it was written: restore the store from a copy, or "
            "start over with overwrite=True."
        )

    def __reduce__(self) -> Any:
        return Told, (self._what, dict(self))
