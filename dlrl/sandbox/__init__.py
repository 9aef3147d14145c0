"""Runs programs that a model wrote, confined, against hidden tests."""
