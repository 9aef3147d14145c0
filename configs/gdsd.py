"""GDSD (arXiv 2605.29398).

    dlrl train --config=gdsd

Regresses each draw's change of log-likelihood on the advantage.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "gdsd"
  cfg.learn.loss_args = {"clip": 4e-4, "psi": 1.0, "kl_coef": 1e-3}
  cfg.learn.forward_process = "exact_k"
  cfg.learn.n_mc = 2
  cfg.learn.epochs = 2
  cfg.learn.score_norm = "none"
  if preset.startswith(llada_8b.PREFIX):
    llada_8b.d1(cfg, epochs=8)
  return cfg
