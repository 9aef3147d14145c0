"""TraceRL (arXiv 2509.06949), without its value model.

    dlrl train --config=trace_rl

Scores every token in the context in which it was committed, a few denoising
steps at a time.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sdar
from dlrl.presets import sudoku_tiny

LOSS = {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.01}


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  if preset.startswith(sdar.PREFIX):
    return _blocks(preset)
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "trace_rl"
  cfg.learn.loss_args = LOSS
  cfg.learn.forward_process = "trace"
  cfg.learn.process_args = {"shrink": 2}  # of 8 steps
  cfg.learn.score_norm = "none"
  if preset.startswith(llada_8b.PREFIX):
    cfg.rollout.prompts = 32
    cfg.rollout.sampler.temperature = 0.8
    cfg.rollout.sampler.steps = cfg.rollout.sampler.gen_length
    cfg.learn.process_args = {"shrink": 8}
    cfg.learn.optimizer.learning_rate = 1e-6
  # One draw per slice of steps.
  cfg.learn.n_mc = (
    cfg.rollout.sampler.steps // cfg.learn.process_args["shrink"])
  return cfg


def _blocks(preset: str) -> ml_collections.ConfigDict:
  """TraDo's run (arXiv 2509.06949), in rounds over all blocks at once."""
  cfg = sdar.base(preset)
  cfg.learn.loss = "trace_rl"
  cfg.learn.loss_args = LOSS
  cfg.learn.forward_process = "block_trace"
  cfg.learn.n_mc = cfg.model.block_length
  cfg.learn.score_norm = "none"
  cfg.learn.optimizer.weight_decay = 0.0
  cfg.rollout.sampler.top_k = 0
  if not preset.endswith(sdar.ONE_GPU):
    cfg.rollout.prompts, cfg.rollout.group_size = 64, 16
    cfg.learn.optimizer.learning_rate = 1e-6
  return cfg
