"""Masked-diffusion fine-tuning on easy 4x4 Sudoku, without RL.

    python -m dlrl.main --config=configs/sft.py

The warm start of `configs/bgpo.py` as a separate job, evaluated on the same
hard puzzles. RL starts from its result with `--config.init_from=runs/sft`.

Presets: the default, and `smoke` (a few steps, to check that everything works).
"""

import ml_collections

from configs import bgpo


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  if preset not in ("", "smoke"):
    raise ValueError(f"unknown preset {preset!r}; use 'smoke' or none")
  cfg = bgpo.get_config(preset)
  cfg.job = "sft"
  return cfg
