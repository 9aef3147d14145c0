"""Sums as English words on a CPU, with a model that reads any text.

A model of 180,000 parameters is fine-tuned on sums, `What is 47 plus 8?`, until
it solves some, and then learns from rewards to solve those of two larger
numbers. It reads and writes bytes, so that the same settings take files of
one's own (`task.name=files`).
"""

import ml_collections

from dlrl.presets import sudoku_tiny


def bgpo() -> ml_collections.ConfigDict:
  """The run of `configs/bgpo.py:text`."""
  cfg = sudoku_tiny.bgpo()
  cfg.task.name = "sums_in_words"
  cfg.task.prompt_length = 48  # our questions need 19; for files of one's own
  cfg.model.vocab_size = 259  # all bytes, see `char_tokenizer.find`

  # With all kinds of sums. After 800 steps of 64 on difficulties 1 and 2, 16%
  # of those with 2 were solved and none with 3, from which RL could not begin.
  cfg.sft.difficulty = (1, 3)
  cfg.sft.steps = 1200
  cfg.sft.batch_size = 96
  cfg.sft.optimizer.learning_rate = 4e-3

  cfg.rollout.difficulty = cfg.eval.difficulty = (2, 3)
  cfg.steps = 150
  cfg.learn.n_mc = 8
  cfg.eval.size = cfg.eval.batch_size = 256
  return cfg
