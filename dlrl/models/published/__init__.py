"""What published checkpoints have in their files."""
