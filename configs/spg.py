"""SPG (arXiv 2510.09541).

    dlrl train --config=spg

Raises the ELBO of good completions and lowers a mix of the ELBO and an upper
bound for bad ones; two block-wise draws.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "spg"
  cfg.learn.loss_args = {"beta": 1.0, "mix": 0.5}  # beta of the paper's Sudoku
  cfg.learn.advantage = "centered"
  cfg.learn.forward_process = "block"
  cfg.learn.process_args = {"block_length": 8}  # of 16 tokens
  cfg.learn.prompt_noise = 0.15
  cfg.learn.n_mc = 2
  cfg.learn.tokens = "until_eos"
  cfg.learn.score_norm = "none"
  if preset.startswith(llada_8b.PREFIX):
    llada_8b.d1(cfg, epochs=4)
    cfg.learn.process_args = {"block_length": 32}
    if cfg.task.name == "sudoku":
      cfg.rollout.sampler.temperature = 0.3
    else:
      cfg.learn.loss_args = {"beta": 1.5, "mix": 0.5}
  return cfg
