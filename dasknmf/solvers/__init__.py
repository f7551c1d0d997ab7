"""Solvers: one file each, derivation above, step below.

`quadratic` and `ratio` are the two kinds of exact pass; `cd` and `mu` are the steps they take.
"""
