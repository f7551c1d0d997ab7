"""Selection among factorizations: rank sweeps, consensus, agreement of starts, and features."""
