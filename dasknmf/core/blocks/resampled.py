"""A tile as one of several models sees it: with rows that count more or less, or with noise in its values.

The tile itself stays what it is, for the models beside it.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from dasknmf.core.blocks.csr import CsrTile
from dasknmf.core.blocks.csr_masked import MaskedCsrTile
from dasknmf.core.blocks.dense import DenseTile
from dasknmf.core.blocks.masked_tile import MaskedTile
from dasknmf.core.blocks.noise import Noise


def weighted(tile: Any, a: np.ndarray) -> MaskedTile | MaskedCsrTile:
    """The tile whose rows count `a` times as often: its values, and so its products, are the same.

    Parameters
    ----------
    tile : Tile
        Dense or sparse, with or without weights of its own.
    a : ndarray of shape (rows,), float64
    """
    seen: MaskedTile | MaskedCsrTile
    if isinstance(tile, DenseTile):
        seen = MaskedTile.of(tile)
    elif isinstance(tile, CsrTile) and not isinstance(tile, MaskedCsrTile):
        seen = MaskedCsrTile.of(tile)
    else:
        seen = copy(tile)
    seen.row_weights = a if tile.row_weights is None else a * tile.row_weights
    return seen


def noisy(tile: Any, noise: Noise, places: np.ndarray) -> Any:
    """The tile with noise in its values, in memory of its own; what is missing or hidden stays that.

    Parameters
    ----------
    tile : Tile
    noise : Noise
    places : ndarray of int64 of shape (rows,)
        Of the tile's rows.
    """
    seen = copy(tile)
    if isinstance(seen, CsrTile):
        seen.v = noise.of_nonzeros(tile.v, tile.columns, tile.pointers, places, tile.n_features)
    else:
        seen.V = noise.of_dense(tile.V, places)
    return seen
