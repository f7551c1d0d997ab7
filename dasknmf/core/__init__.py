"""The numerics of one panel and one pass: NumPy, SciPy and numba only, no Dask, no Zarr, no I/O."""
