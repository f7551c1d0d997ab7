"""Reads and writes of storage: retries, atomic replacement, byte counts, credentials, owners of files."""
