"""TraceRL (arXiv 2509.06949), without its value model.

    python -m dlrl.main --config=configs/trace_rl.py

Scores every token in the context in which it was committed, a few denoising
steps at a time.

Presets and all other settings: see `configs/sudoku_tiny.py`.
"""

import ml_collections

from configs import llada_8b
from configs import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "trace_rl"
  cfg.learn.loss_args = {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.01}
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
