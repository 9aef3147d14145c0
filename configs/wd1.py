"""wd1 (arXiv 2507.08838).

    dlrl train --config=wd1

Likelihoods weighted by softmaxes of the advantages, without ratio or reference.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "elbo_reinforce"
  cfg.learn.advantage = "softmax"
  cfg.learn.forward_process = "all_masked"
  cfg.learn.prompt_noise = 0.15
  cfg.learn.n_mc = 1
  cfg.learn.tokens = "until_eos"
  cfg.learn.score_norm = "none"
  if preset.startswith(llada_8b.PREFIX):
    llada_8b.d1(cfg, epochs=8, math_epochs=12)
  return cfg
