"""TraceRL (arXiv 2509.06949), without its value model.

    python -m dlrl.main --config=configs/trace_rl.py --workdir=DIR

Every token is scored as its denoising step saw it, a few steps at a time.

Presets: see `configs/sudoku_tiny.py`, which holds all but the method.
"""

import ml_collections

from configs import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "trace_rl"
  cfg.learn.loss_args = {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.01}
  cfg.learn.forward_process = "trace"
  cfg.learn.process_args = {"shrink": 2}  # of 8 steps; 8 of 512
  cfg.learn.n_mc = 4  # slices
  cfg.learn.score_norm = "none"
  return cfg
