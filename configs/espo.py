"""ESPO (arXiv 2512.03759).

    dlrl train --config=espo

A clipped ratio of whole sequences, from two complementary pairs of draws.

Presets and all other settings: see `dlrl/presets/sudoku_tiny.py`.
"""

import ml_collections

from dlrl.presets import llada_8b
from dlrl.presets import sudoku_tiny


def get_config(preset: str = "sudoku_tiny") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  cfg = sudoku_tiny.base(preset)
  cfg.learn.loss = "espo"
  cfg.learn.loss_args = {
    "clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.01, "kl": "k2"}
  cfg.learn.advantage = "leave_one_out"
  cfg.learn.forward_process = "complementary"
  cfg.learn.n_mc = 4
  cfg.learn.epochs = 2
  cfg.learn.score_norm = "none"
  if preset.startswith(llada_8b.PREFIX):
    llada_8b.d1(cfg, epochs=8)
    cfg.rollout.sampler.temperature = 1.0
    if cfg.task.name in ("math", "mbpp"):
      cfg.rollout.group_size = 16 if cfg.task.name == "math" else 10
      cfg.rollout.sampler.steps = cfg.rollout.sampler.gen_length
    if cfg.task.name == "mbpp":
      cfg.learn.optimizer.learning_rate = 1e-6
      # For code, the paper trains all parameters.
      cfg.lora.rank, cfg.model.param_dtype = 0, "float32"
    if cfg.task.name == "countdown":
      cfg.learn.loss_args = {
        "clip_low": 0.2, "clip_high": 0.2, "kl_coef": 3e-3, "kl": "k2"}
  return cfg
