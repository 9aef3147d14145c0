"""GDSD (arXiv 2605.29398).

    python -m dlrl.main --config=configs/gdsd.py --workdir=DIR

Each draw's change of log-likelihood regressed on the advantage; the paper adds
a KL to the reference, which is not here.

Presets: see `configs/sudoku_tiny.py`, which holds all but the method.
"""

import ml_collections

from configs import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "gdsd"
  cfg.learn.loss_args = {"clip": 4e-4, "psi": 1.0}
  cfg.learn.forward_process = "exact_k"
  cfg.learn.n_mc = 2
  cfg.learn.updates_per_rollout = 2  # the paper makes 8 of each rollout
  cfg.learn.score_norm = "none"
  return cfg
