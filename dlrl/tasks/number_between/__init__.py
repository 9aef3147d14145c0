"""A number between two others, answered in English words."""
