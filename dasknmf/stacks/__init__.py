"""Stacks of images, factorized: xarray in, xarray out. Needs the ``xarray`` extra."""

from dasknmf.stacks.model import StackNMF
from dasknmf.stacks.stack import Stack, open_stack

__all__ = ["Stack", "StackNMF", "open_stack"]
