"""The numerics of panels and passes, with NumPy, SciPy and numba only: no Dask, no Zarr, no I/O."""
