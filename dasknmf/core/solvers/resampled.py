"""Random versions of V, which show whether components depend on chance.

NMFk factorizes many random versions of V, and accepts the components that all of them have [1]_ [2]_. A
version is computed tile by tile in every read, from counter-based random numbers: nothing is stored, and a
version is the same for any panels, tiles, scheduler or order of tasks.

::

    "rows"       row i counts a_i times, a_i exponential of mean 1
    "uniform"    v (1 + ε u), u uniform in (−1, 1)
    "poisson"    counts of mean v

Weights of rows are the Bayesian bootstrap [3]_: a / Σa is Dirichlet(1, …, 1), the smooth sibling of rows
drawn with replacement, which count 0, 1, 2, … times, in the limit Poisson(1). Mean and variance are 1
and 1 for both, but no exponential is 0: drawing with replacement leaves out any one row in 37 of 100
versions, and with it components of few rows, such as the program of a rare type of cells. The weights are not
divided by their sum, which no tile knows: a common factor scales the loss, and changes only the strength of
penalties, by about 1 in √n.

With weights of rows, V Hᵀ (n × k) is that of V, and Wᵀ diag(a) V (k × m) is a product with V: models that
share a read share these products. Noise in the entries gives each model another V, and so other products.

References
----------
.. [1] Alexandrov, L. B., Nik-Zainal, S., Wedge, D. C., Campbell, P. J., & Stratton, M. R. (2013). Deciphering
   signatures of mutational processes operative in human cancer. Cell Reports, 3(1).
.. [2] Nebgen, B. T., Vangara, R., Hombrados-Herrera, M. A., Kuksova, S., & Alexandrov, B. S. (2021). A neural
   network for determination of latent dimensionality in non-negative matrix factorization. Machine Learning:
   Science and Technology, 2(2).
.. [3] Rubin, D. B. (1981). The Bayesian bootstrap. The Annals of Statistics, 9(1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from dasknmf.core.blocks.base import Tile
from dasknmf.core.blocks.noise import Noise, exponential
from dasknmf.core.image_grid import InOrder, PixelIndex
from dasknmf.core.phase import Batching, PhaseWrapper, Rows, Tally
from dasknmf.core.rng import key_of

Kind = Literal["rows", "uniform", "poisson"]
KINDS: tuple[Kind, ...] = ("rows", "uniform", "poisson")

EPSILON = 0.015
"""The default of T-ELF."""

_ROWS_STREAM, _ENTRIES_STREAM = 80, 81
"""Streams of random words; starts and hidden entries use other streams of the same seed."""


@dataclass(frozen=True)
class Resampling:
    """A random version of V.

    Parameters
    ----------
    kind : "rows", "uniform" or "poisson"
    epsilon : float
        Half the width of the noise ``"uniform"``, relative to an entry.
    seed : int
        Versions of different seeds are independent.
    rows : PixelIndex
        Places of V's rows in X.
    """

    kind: Kind = "rows"
    epsilon: float = EPSILON
    seed: int = 0
    rows: PixelIndex = InOrder()

    @property
    def shares_products(self) -> bool:
        """Whether products with V itself are those that this version needs: only rows are weighted."""
        return self.kind == "rows"

    @property
    def described(self) -> dict[str, Any]:
        """The parameters without the seed, as JSON values."""
        return {"kind": self.kind} | ({"epsilon": float(self.epsilon)} if self.kind == "uniform" else {})

    @cached_property
    def _key(self) -> np.uint64:
        return key_of(self.seed, _ROWS_STREAM if self.kind == "rows" else _ENTRIES_STREAM)

    def row_weights(self, first: int, n_rows: int) -> np.ndarray:
        """Weights a of rows of V from `first` on, shape (n_rows,), float64, for the kind ``"rows"``."""
        return exponential(self._key, self.rows.places(first, first + n_rows))

    def seen(self, tile: Tile) -> Tile:
        """The tile of this version, from the tile of V."""
        if self.kind == "rows":
            return tile.reweighted(self.row_weights(tile.first, tile.n_rows))
        noise = Noise(self._key, self.epsilon if self.kind == "uniform" else None)
        return tile.noisy(noise, self.rows.places(tile.first, tile.first + tile.n_rows))


@dataclass(frozen=True)
class ResampledPhase(PhaseWrapper):
    """A pass over a version of V; checksums of panels stay those of V itself.

    Parameters
    ----------
    phase : Phase
        One that reads data.
    resampling : Resampling
    """

    resampling: Resampling

    def tile(self, tile: Tile, rows: Rows, inputs: Any, tally: Tally) -> None:
        self.phase.tile(self.resampling.seen(tile), rows, inputs, tally)

    @property
    def batching(self) -> Batching | None:
        return self.phase.batching if self.resampling.shares_products else None
