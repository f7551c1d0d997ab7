"""Storage that fails, is replaced, is counted, and belongs to someone."""
