"""A run's files: checkpoints, workdir, metrics and plots."""
