"""Phases before the first exact pass: the survey of V, and the starts of W and H."""
