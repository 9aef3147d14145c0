"""REINFORCE with the ELBO as log-likelihood.

    dlrl train --config=elbo_reinforce

On-policy, the gradients of all ELBO objectives reduce to this one.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "elbo_reinforce"
  if preset.startswith(llada_8b.PREFIX):
    llada_8b.cached(cfg)
  return cfg
