"""EBPO (LLaDA2.1, arXiv 2602.08676).

    python -m dlrl.main --config=configs/ebpo.py

A clipped ratio of likelihoods at fixed noise levels. The paper's model decodes
and is scored block by block; this is the objective for a bidirectional model.

Presets and all other settings: see `configs/sudoku_tiny.py`.
"""

import ml_collections

from configs import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "ebpo"
  cfg.learn.loss_args = {"clip_low": 0.2, "clip_high": 0.2}
  cfg.learn.forward_process = "quadrature"
  cfg.learn.n_mc = 4
  cfg.learn.epochs = 2
  return cfg
