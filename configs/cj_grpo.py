"""CJ-GRPO (arXiv 2509.23924).

    dlrl train --config=cj_grpo

Scores every token at the denoising step that committed it, and averages over
the tokens of a step, then over the steps of a completion. With `sdar_SIZE_TASK`
these are the steps of its blocks, as in DARE
(https://github.com/yjyddq/DARE).

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import sdar
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  if preset.startswith(sdar.PREFIX):
    cfg = sdar.base(preset)
    cfg.learn.forward_process = "block_trace"
    cfg.learn.n_mc = cfg.model.block_length
    cfg.learn.score_norm = "step"
  else:
    cfg = sudoku_tiny.base(preset)
    cfg.learn.forward_process = "trace"
    cfg.learn.n_mc = cfg.rollout.sampler.steps
    # All steps commit equally many tokens, which all count.
    cfg.learn.score_norm = "none"
  cfg.learn.loss = "diffu_grpo"
  cfg.learn.loss_args = {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0}
  return cfg
