"""VRPO-OL, the baseline of BGPO (arXiv 2510.11683).

    python -m dlrl.main --config=configs/vrpo_online.py --workdir=DIR

exp of the change of the ELBO, from 4 draws, the most that fitted the paper's
GPUs; here memory does not depend on it.

Presets: see `configs/sudoku_tiny.py`, which holds all but the method.
"""

import ml_collections

from configs import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "vrpo_online"
  cfg.learn.n_mc = 4  # what fits 80 GB where all draws are kept
  return cfg
