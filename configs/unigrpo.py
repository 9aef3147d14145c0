"""UniGRPO (MMaDA, arXiv 2505.15809).

    dlrl train --config=unigrpo

Masking ratios are evenly spaced over the draws, with a random offset. The
published values of the clip and the KL factor are uncertain.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "unigrpo"
  cfg.learn.loss_args = {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.01}
  cfg.learn.forward_process = "random_ratio"
  cfg.learn.n_mc = 4
  cfg.learn.tokens = "until_eos"
  cfg.learn.score_norm = "none"
  if preset.startswith(llada_8b.PREFIX):
    llada_8b.d1(cfg, epochs=4)  # its own settings are not published
  return cfg
