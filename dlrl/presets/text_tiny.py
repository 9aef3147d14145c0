"""Sums as English words on a CPU, with a model that reads any text.

A model of 180,000 parameters is fine-tuned on sums, `What is 47 plus 8?`, until
it solves 40% of others, and goes on with rewards. These have not made it better
yet: after 100 steps 36% of rollouts were right, and 33% in the first. It reads
and writes bytes, so that the same settings take files of one's own
(`task.name=files`).
"""

import ml_collections

from dlrl.presets import sudoku_tiny


def bgpo() -> ml_collections.ConfigDict:
  """The run of `configs/bgpo.py:text`."""
  cfg = sudoku_tiny.bgpo()
  cfg.task.name = "sums_in_words"
  cfg.task.prompt_length = 48  # our questions need 19; for files of one's own
  cfg.model.vocab_size = 259  # all bytes, see `char_tokenizer.find`

  # Without a carry or with a small number; 40% are then solved. Sums of
  # difficulty 3 take longer: with them 2% were, from which RL could not begin.
  cfg.sft.difficulty = (1, 2)
  cfg.sft.steps = 1500
  cfg.sft.batch_size = 96
  cfg.sft.optimizer.learning_rate = 6e-3

  cfg.rollout.difficulty = cfg.eval.difficulty = (1, 2)
  cfg.steps = 120
  # With 64 questions and a rate of 2.5e-3, twenty steps lost half of what
  # fine-tuning had gained.
  cfg.rollout.prompts = 128
  cfg.learn.optimizer.learning_rate = 6e-4
  cfg.learn.micro_batch = 32
  cfg.learn.n_mc = 8
  cfg.eval.size = cfg.eval.batch_size = 256
  return cfg
