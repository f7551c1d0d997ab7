"""Passes over V as Dask graphs, and the schedulers that run these graphs."""
