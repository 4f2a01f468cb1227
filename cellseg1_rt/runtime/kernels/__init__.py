"""Compiled loops of the runtime: one subject a file, on plain arrays. Imports numpy and numba."""
