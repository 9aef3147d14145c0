"""What the methods' configs have in common on a CPU: no method of its own.

Model, warm start, puzzles, rollouts and optimizer are those of
`configs/bgpo.py:plain`; a method's file sets what its paper says of the update.
The learning rate is not the paper's, which is for 8 billion parameters.

Presets: `sudoku_tiny` and `smoke` (every phase, learns nothing).
"""

import ml_collections

from configs import bgpo


def base(preset: str) -> ml_collections.ConfigDict:
  """The settings of `preset`, with the paper's BGPO as the method."""
  if preset not in ("sudoku_tiny", "smoke"):
    raise ValueError(
      f"unknown preset {preset!r}; there are 'sudoku_tiny', 'smoke'")
  cfg = bgpo.get_config("smoke" if preset == "smoke" else "plain")
  cfg.learn.negative_weight = 1.0
  return cfg
