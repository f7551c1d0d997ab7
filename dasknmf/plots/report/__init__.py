"""A run as one page of HTML that needs nothing else: read from runs and their history, never from V."""

from dasknmf.plots.report.page import page, write

__all__ = ["page", "write"]
