"""Settings shared by the configs of all methods.

On a CPU, model, warm start, puzzles, rollouts and optimizer are those of
`configs/bgpo.py:plain`; the file of a method sets the update as its paper says.
The learning rate is not the paper's, which is for 8 billion parameters.

Presets: `sudoku_tiny`, `smoke` (every phase, learns nothing), and those of
`configs/llada_8b.py`, with the papers' batches and optimizers.
"""

import ml_collections

from configs import bgpo
from configs import llada_8b


def base(preset: str) -> ml_collections.ConfigDict:
  """The settings of `preset`, with the paper's BGPO as the method."""
  if preset not in ("sudoku_tiny", "smoke"):
    return llada_8b.base(preset)
  cfg = bgpo.get_config("smoke" if preset == "smoke" else "plain")
  cfg.learn.negative_weight = 1.0
  return cfg
