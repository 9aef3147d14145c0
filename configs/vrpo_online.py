"""VRPO-OL, the baseline of BGPO (arXiv 2510.11683).

    dlrl train --config=vrpo_online

The ratio exp(change of the ELBO) from 4 draws, the largest number that fitted
the paper's GPUs. Here memory does not depend on the number of draws.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "vrpo_online"
  cfg.learn.n_mc = 4  # fits 80 GB if all draws are kept
  if preset.startswith(llada_8b.PREFIX):
    llada_8b.cached(cfg)
  return cfg
