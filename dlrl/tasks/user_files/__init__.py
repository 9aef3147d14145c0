"""Tasks from users' own files, prompts and reward functions."""
