"""BGPO on 4x4 Sudoku. Presets plain, smoke."""

import ml_collections

from dlrl import config


def get_config(preset: str = "") -> ml_collections.ConfigDict:
  """The settings of `preset`."""
  if preset not in ("", "plain", "smoke"):
    raise ValueError(f"unknown preset {preset!r}; there are 'plain', 'smoke'")
  cfg = config.default()
  cfg.sft.steps = 650
  cfg.sft.batch_size = 48
  cfg.sft.difficulty = (3, 6)
  cfg.sft.optimizer.learning_rate = 6e-3
  cfg.sft.optimizer.warmup_steps = 20

  cfg.steps = 150
  cfg.rollout.prompts = 64
  cfg.rollout.group_size = 4
  cfg.rollout.difficulty = (8, 10)
  cfg.rollout.sampler.steps = 8
  cfg.learn.micro_batch = 32
  cfg.learn.negative_weight = 0.1
  cfg.learn.optimizer.learning_rate = 1.5e-3
  cfg.learn.optimizer.warmup_steps = 10
  cfg.learn.optimizer.schedule = "cosine"

  cfg.eval.difficulty = (8, 10)
  cfg.eval.sampler.steps = 16
  cfg.eval.every = 25

  if preset == "plain":
    cfg.learn.negative_weight = 1.0
  if preset == "smoke":
    cfg.steps = 4
    cfg.sft.steps = 20
    cfg.rollout.prompts = 8
    cfg.rollout.group_size = 4
    cfg.learn.n_mc = 4
    cfg.learn.micro_batch = 32
    cfg.eval.size = 64
    cfg.eval.batch_size = 64
    cfg.checkpoint_every = 2
  return cfg
