"""Accuracy on held-out items: protocols, tables and intervals."""
