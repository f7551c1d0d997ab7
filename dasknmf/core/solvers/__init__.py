"""Solvers: one file each, derivation above, step below.

`quadratic` and `ratio` are the two kinds of exact pass; `cd`, `mu` and `nnls` (solver ``"bpp"``) are the
steps they take, `lanes` how they move many rows at once, `packed` Gram matrices that differ by row.
"""
