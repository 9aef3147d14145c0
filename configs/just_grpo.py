"""JustGRPO (arXiv 2601.15165).

    dlrl train --config=just_grpo

The exact likelihood of left-to-right decoding, one token per draw.

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
  cfg.learn.forward_process = "left_to_right"
  cfg.learn.score_norm = "none"
  cfg.rollout.sampler.block_length = 1  # decodes from left to right
  cfg.rollout.sampler.steps = cfg.rollout.sampler.gen_length
  cfg.learn.n_mc = cfg.rollout.sampler.gen_length
  if preset.startswith(llada_8b.PREFIX):
    cfg.rollout.prompts, cfg.rollout.group_size = 64, 16
    cfg.rollout.sampler.temperature = 1.0
    cfg.learn.optimizer.learning_rate = 5e-6
    cfg.steps = 125
  return cfg
