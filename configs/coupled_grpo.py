"""coupled-GRPO (DiffuCoder, arXiv 2506.20639).

    dlrl train --config=coupled_grpo

Three draws per completion: all tokens masked, a random part, and its
complement.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "coupled_grpo"
  cfg.learn.loss_args = {"clip_low": 0.5, "clip_high": 0.5, "kl_coef": 0.01}
  cfg.learn.advantage = "leave_one_out"
  cfg.learn.forward_process = "coupled"
  cfg.learn.n_mc = 3
  cfg.learn.epochs = 2
  cfg.learn.tokens = "until_eos"
  cfg.learn.score_norm = "none"
  if preset.startswith(llada_8b.PREFIX):
    # 80 completions per step, ten per prompt: the settings of DiffuCoder.
    cfg.rollout.prompts, cfg.rollout.group_size = 8, 10
    cfg.rollout.sampler.temperature = 1.0
    cfg.rollout.sampler.steps = cfg.rollout.sampler.gen_length
    cfg.learn.micro_batch = 16
    cfg.learn.optimizer.learning_rate = 1e-6
    cfg.learn.optimizer.schedule = "cosine"
    cfg.learn.optimizer.weight_decay = 0.1
    cfg.learn.optimizer.clip_norm = 0.2
  return cfg
