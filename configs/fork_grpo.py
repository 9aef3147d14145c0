"""ForkGRPO (Fork-dLLM, 2026).

    dlrl train --config=fork_grpo

Rollouts commit all tokens above a confidence threshold at once. Where none is
above it, a step commits the leftmost masked token; only these forks are scored.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sudoku_tiny


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
