"""A store that counts what is read of it."""

from __future__ import annotations

import threading
from typing import Any

from zarr.storage import WrapperStore


class CountingStore(WrapperStore[Any]):
    """A store that counts the bytes that it returns."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.nbytes = 0
        self._lock = threading.Lock()

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        value = await super().get(key, prototype, byte_range)
        with self._lock:
            self.nbytes += 0 if value is None else len(value)
        return value
