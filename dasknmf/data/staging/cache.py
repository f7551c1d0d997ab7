"""The interface of caches of panels, a source that reads from a cache, and the cache in this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Self

from dask.task_spec import GraphNode

from dasknmf.core.panels import Panel
from dasknmf.data.source import Chunks, Slab, Source, StageLost, Wrapper, nbytes_of
from dasknmf.data.staging.packed import Packed
from dasknmf.io.counts import count

Write = Callable[[Packed], None]


class Cache(ABC):
    """A cache of V's panels between passes."""

    in_memory = True
    """Whether panels are kept in the memory of the processes that read V."""

    @abstractmethod
    def chunk_keys(self, source: Source, panel: Panel, *, lost: bool) -> list[list[Hashable]]:
        """Keys of the chunks that a visit of a panel of `source` needs."""

    def upstream(self, source: Source) -> dict[Hashable, GraphNode]:
        """The graph that computes the chunks."""
        return source.upstream()

    def for_tasks(self) -> Cache:
        """A copy for tasks, without what only the client needs."""
        return self

    @abstractmethod
    def read(self, start: int, stop: int, chunks: Chunks) -> Iterator[Packed]:
        """The slabs of a panel before the first lost slab."""

    @abstractmethod
    def writing(self, start: int, stop: int) -> AbstractContextManager[Write]:
        """A context with a function that stores one slab of a panel; all slabs are kept, or none."""


class Staged(Wrapper):
    """A source whose panels are read once and then kept in a cache.

    Parameters
    ----------
    source : Source
    cache : Cache
    unaided : bool
        Whether a visit can read a lost panel itself, because `source` needs no chunks of a Dask array.
    """

    def __init__(self, source: Source, cache: Cache, *, unaided: bool) -> None:
        super().__init__(source)
        self._cache = cache
        self._unaided = unaided
        self._is_begun = False
        self.staged_bytes = nbytes_of(source) if cache.in_memory else 0

    def for_tasks(self) -> Self:
        return self.changed(source=self.source.for_tasks(), _cache=self._cache.for_tasks())

    def visiting(self, rows: Sequence[slice]) -> Self:
        # Passes after the first fetch the lost panels alone.
        if self._is_begun:
            return self
        self._is_begun = True
        return super().visiting(rows)

    def chunk_keys(self, panel: Panel, *, lost: bool = False) -> list[list[Hashable]]:
        return self._cache.chunk_keys(self.source, panel, lost=lost)

    def upstream(self) -> dict[Hashable, GraphNode]:
        return self._cache.upstream(self.source)

    def slabs(self, start: int, stop: int, chunks: Chunks = ()) -> Iterator[Slab]:
        row, n_slabs = start, 0
        for kept in self._cache.read(start, stop, chunks):
            count(nbytes=0)  # bytes that a stage reads are not counted
            slab = kept.slab()
            row += slab.shape[0]
            n_slabs += 1
            yield slab
        if row == stop:
            return
        if not (chunks or self._unaided):
            raise StageLost
        with self._cache.writing(start, stop) as write:
            for number, slab in enumerate(self.source.slabs(start, stop, chunks)):
                kept = Packed.of(slab)
                write(kept)
                if number >= n_slabs:  # earlier slabs came from the cache
                    yield kept.slab()


class MemoryCache(Cache):
    """A cache of panels in the memory of this process."""

    def __init__(self) -> None:
        self.panels: dict[int, list[Packed]] = {}
        """Slabs of each panel, by the panel's first row."""

    def chunk_keys(self, source: Source, panel: Panel, *, lost: bool) -> list[list[Hashable]]:
        return [] if panel.start in self.panels else source.chunk_keys(panel)

    def read(self, start: int, stop: int, chunks: Chunks) -> Iterator[Packed]:
        yield from self.panels.get(start, ())

    @contextmanager
    def writing(self, start: int, stop: int) -> Iterator[Write]:
        panel: list[Packed] = []
        yield panel.append
        self.panels[start] = panel
