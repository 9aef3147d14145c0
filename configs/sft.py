"""Masked-diffusion fine-tuning on easy 4x4 Sudoku, without RL.

    dlrl train --config=sft

The warm start of `configs/bgpo.py` as a separate job, evaluated on the same
hard puzzles. RL starts from its result with `--config.init_from=runs/sft`.

Presets: the default, and `smoke` (a few steps, to check that everything works).
"""

import ml_collections

from dlrl.presets import names
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  if preset not in ("", "smoke"):
    raise names.unknown(preset, ["smoke"])
  cfg = sudoku_tiny.bgpo()
  if preset == "smoke":
    sudoku_tiny.smoke(cfg)
  cfg.job = "sft"
  return cfg
