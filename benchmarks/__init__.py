"""Benchmarks: one file per question; `python -m benchmarks.NAME --help`."""
