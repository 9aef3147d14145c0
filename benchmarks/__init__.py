"""Benchmarks: each measures into a JSON file, and most draw a PNG from it."""
