"""Stacks of images, factorized: xarray in, xarray out. Needs the ``xarray`` extra."""

from dasknmf.inputs.stack import Stack, open_stack
from dasknmf.stacks.model import StackNMF

__all__ = ["Stack", "StackNMF", "open_stack"]
