"""The grid of panels.

The grid depends only on V (its shape, dtype and stored chunks), so that the same V has the same panels, and
the same sums in the same order, on a laptop and on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_PANELS = 64
_PANEL_BYTES = (4 * 2**20, 128 * 2**20)
_SLAB_BYTES = 16 * 2**20
_MOST_TASKS = 4096


@dataclass(frozen=True)
class Panel:
    """Rows [start, stop) of V."""

    index: int
    start: int
    stop: int

    @property
    def n_rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Grid:
    """The cuts of V into panels.

    Parameters
    ----------
    edges : tuple of int
        First row of each panel, and the number of rows of V last.
    """

    edges: tuple[int, ...]

    @classmethod
    def of(
        cls, cuts: Sequence[int] | np.ndarray, row_bytes: int, cut_bytes: np.ndarray | None = None
    ) -> Grid:
        """The grid over rows that may be cut only at `cuts` (0 first, the number of rows last).

        A row takes `row_bytes`; rows of different sizes take `cut_bytes` before each cut.
        """
        cuts = np.asarray(cuts, dtype=np.int64)
        nbytes = int(cuts[-1]) * row_bytes if cut_bytes is None else int(cut_bytes[-1])
        before = cuts if cut_bytes is None else cut_bytes
        least, most = _PANEL_BYTES
        target = min(most, max(least, nbytes // _PANELS))
        n_panels = max(1, round(nbytes / target))
        wanted = np.linspace(0, before[-1], n_panels + 1)
        after = np.searchsorted(before, wanted).clip(1, len(cuts) - 1)
        nearer = np.where(wanted - before[after - 1] <= before[after] - wanted, after - 1, after)
        nearer[[0, -1]] = 0, len(cuts) - 1  # rows without a nonzero may come first and last
        edges = np.unique(cuts[nearer])
        return cls(tuple(int(edge) for edge in edges))

    def __len__(self) -> int:
        return len(self.edges) - 1

    def __getitem__(self, index: int) -> Panel:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Panel(index, self.edges[index], self.edges[index + 1])

    def __iter__(self) -> Iterator[Panel]:
        return (self[index] for index in range(len(self)))

    @property
    def n_rows(self) -> int:
        return self.edges[-1]

    @property
    def rows_max(self) -> int:
        """Number of rows of the largest panel."""
        return int(np.diff(self.edges).max())

    def groups(self) -> list[list[Panel]]:
        """Groups of consecutive panels; one task visits each group."""
        length = -(-len(self) // _MOST_TASKS)
        panels = list(self)
        return [panels[i : i + length] for i in range(0, len(panels), length)]


def slab_rows(chunk_rows: int, row_bytes: int) -> int:
    """Number of rows in a slab: whole chunks of about 16 MiB together, at least one chunk."""
    return chunk_rows * max(1, int(_SLAB_BYTES // max(1, chunk_rows * row_bytes)))
