"""Measurements; each writes JSON and a PNG."""
