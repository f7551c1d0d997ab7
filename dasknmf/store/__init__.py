"""Stored runs, and the factor store, which keeps W and H between passes."""
