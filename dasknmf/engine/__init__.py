"""One pass over V as a Dask graph; knows nothing of factorization."""
