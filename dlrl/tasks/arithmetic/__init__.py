"""Sums whose answers are English words."""
