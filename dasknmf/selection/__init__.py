"""Many factorizations of one V: over ranks, restarts and perturbations, and what they agree on."""
