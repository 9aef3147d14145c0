"""STP-style pruning (arXiv 2602.08905) of BGPO's rollouts, on 4x4 Sudoku.

    python -m dlrl.main --config=configs/stp.py --workdir=runs/stp

Presets, after a colon:
  (none)  the run above.
  smoke   every phase in well under a minute; learns nothing.
"""

import ml_collections

from configs import bgpo


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  if preset not in ("", "smoke"):
    raise ValueError(f"unknown preset {preset!r}; there is 'smoke'")
  cfg = bgpo.get_config(preset)
  cfg.rollout.prior.template = 1.0
  cfg.rollout.sampler.fill_after = 0.5
  cfg.learn.forward_process = "truncated"
  cfg.learn.process_args = {"least": 0.5}
  return cfg
