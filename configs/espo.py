"""ESPO (arXiv 2512.03759).

    python -m dlrl.main --config=configs/espo.py --workdir=DIR

Clipped ratio of whole sequences from two complementary pairs.

Presets: see `configs/sudoku_tiny.py`, which holds all but the method.
"""

import ml_collections

from configs import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "espo"
  cfg.learn.loss_args = {
    "clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.01, "kl": "k2"}
  cfg.learn.advantage = "leave_one_out"
  cfg.learn.forward_process = "complementary"
  cfg.learn.n_mc = 4
  cfg.learn.updates_per_rollout = 2  # the paper makes 8 of each rollout
  cfg.learn.score_norm = "none"
  return cfg
