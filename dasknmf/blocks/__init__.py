"""What can be asked of a block of V. One file per storage kind; the only code that indexes V."""

from dasknmf.blocks.base import Block, RowsOnly, Tile
from dasknmf.blocks.dense import DenseBlock

__all__ = ["Block", "DenseBlock", "RowsOnly", "Tile"]
