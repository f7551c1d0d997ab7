"""The report of a run: one HTML page that needs no other file, made from the run without reading V."""

from dasknmf.plots.report.page import page, write_page

__all__ = ["page", "write_page"]
