"""ForkGRPO (Fork-dLLM, 2026).

    python -m dlrl.main --config=configs/fork_grpo.py --workdir=DIR

Rollouts commit all that is sure at once; where nothing is they continue the
text, and these forks alone are scored.

Presets: see `configs/sudoku_tiny.py`, which holds all but the method.
"""

import ml_collections

from configs import llada_8b
from configs import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "diffu_grpo"
  cfg.learn.loss_args = {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0}
  cfg.learn.forward_process = "forks"
  cfg.learn.score_norm = "none"
  cfg.rollout.sampler.threshold = 0.9
  cfg.rollout.sampler.fallback = "leftmost"
  cfg.learn.n_mc = cfg.rollout.sampler.gen_length
  if preset.startswith(llada_8b.PREFIX):
    cfg.rollout.prompts, cfg.rollout.group_size = 16, 16
    cfg.rollout.sampler.temperature = 1.0
    cfg.learn.optimizer.learning_rate = 5e-6
  return cfg
