"""The steps of a fit, from the parameters of `NMF` to a fitted model."""
