"""Published scorers, re-created to reproduce papers' tables."""
