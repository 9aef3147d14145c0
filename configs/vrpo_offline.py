"""VRPO (LLaDA 1.5, arXiv 2505.19223).

    dlrl train --config=vrpo_offline

DPO on ELBOs. The paper uses a data set of pairs; here a pair is two completions
of the policy, ordered by their rewards.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import sudoku_tiny


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
