"""Phases before the first exact pass: the survey of V, and the initial W and H."""
