"""EBPO (LLaDA2.1, arXiv 2602.08676).

    dlrl train --config=ebpo

A clipped ratio of likelihoods, from noise levels that are spread evenly.
The paper's model decodes and is scored block by block: presets of
`dlrl/presets/llada2.py` and `dlrl/presets/sdar.py`. The others are of a
bidirectional model, at fixed levels.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada2
from dlrl.presets import sdar
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  family = next((family for family in (sdar, llada2)
                 if preset.startswith(family.PREFIX)), None)
  blocks = family is not None
  cfg = (family or sudoku_tiny).base(preset)
  cfg.learn.loss = "ebpo"
  cfg.learn.loss_args = {"clip_low": 0.2, "clip_high": 0.2}
  cfg.learn.forward_process = "block_stratified" if blocks else "quadrature"
  cfg.learn.n_mc = 16 if blocks else 4
  cfg.learn.epochs = 2
  return cfg
