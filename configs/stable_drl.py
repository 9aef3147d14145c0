"""StableDRL (arXiv 2603.06743).

    dlrl train --config=stable_drl

Ratios clipped on both sides and normalized within a group; same draws as ESPO.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "stable_drl"
  cfg.learn.loss_args = {
    "clip_low": 0.2, "clip_high": 0.2, "group_size": cfg.rollout.group_size}
  cfg.learn.forward_process = "complementary"
  cfg.learn.n_mc = 4
  cfg.learn.epochs = 2
  cfg.learn.score_norm = "none"
  return cfg
