"""The factors of a run, written where biologists read them: AnnData stores and tables."""
