"""Solvers: one file for each, with its derivation in the docstring, followed by its step.

`quadratic` and `ratio` are the exact passes over V, for the Frobenius loss and for any other; `cd`, `mu` and
`nnls` (solver ``"bpp"``) are their steps, and `table` has a row of properties for each solver. `lanes` is for
updates of 64 rows at once. `packed_grams` stores a Gram matrix for each row, where entries are missing or
have weights; "packed" means that only the upper triangle of a symmetric matrix is stored, as one line.
"""
