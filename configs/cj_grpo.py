"""CJ-GRPO (arXiv 2509.23924).

    dlrl train --config=cj_grpo

Scores every token at the denoising step that committed it.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "diffu_grpo"
  cfg.learn.loss_args = {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0}
  cfg.learn.forward_process = "trace"
  cfg.learn.n_mc = cfg.rollout.sampler.steps
  cfg.learn.score_norm = "none"
  return cfg
