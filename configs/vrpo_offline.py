"""VRPO (LLaDA 1.5, arXiv 2505.19223).

    python -m dlrl.main --config=configs/vrpo_offline.py --workdir=DIR

DPO on ELBOs. The paper's pairs are given; here they are two completions of the
policy and the reward says which is better.

Presets: see `configs/sudoku_tiny.py`, which holds all but the method.
"""

import ml_collections

from configs import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "vrpo_offline"
  cfg.learn.loss_args = {"beta": 0.2}
  cfg.learn.advantage = "centered"
  cfg.rollout.prompts, cfg.rollout.group_size = (
    cfg.rollout.prompts * cfg.rollout.group_size // 2, 2)
  cfg.learn.n_mc = 8
  cfg.learn.score_norm = "none"
  return cfg
