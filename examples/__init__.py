"""Examples: each runs as a script, and in the tests."""
