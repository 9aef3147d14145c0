"""Datasets with pinned checksums, computed or published."""
