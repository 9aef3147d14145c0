"""BGPO on 4x4 Sudoku."""

from dlrl import config


def get_config(preset: str = ""):
  """paper smoke"""
  cfg = config.default()
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
