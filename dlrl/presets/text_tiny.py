"""Sums as English words on a CPU, with a model that reads any text.

A model of 180,000 parameters is fine-tuned on `What is 47 plus 8?` and on sums
without a carry. From rewards it then learns sums of two larger numbers with a
carry, of which it never sees an answer. It reads and writes bytes, so that the
same settings take files of one's own (`task.name=files`).
"""

import ml_collections

from dlrl.presets import sudoku_tiny


def bgpo() -> ml_collections.ConfigDict:
  """The run of `configs/bgpo.py:text`."""
  cfg = sudoku_tiny.bgpo()
  cfg.task.name = "sums_in_words"
  cfg.task.prompt_length = 48  # our questions need 19; for files of one's own
  cfg.model.vocab_size = 259  # all bytes, see `char_tokenizer.find`

  # Both what a carry is and how two tens are added occur, but never together.
  cfg.sft.difficulty = (1, 2)
  cfg.sft.steps = 1200
  cfg.sft.batch_size = 96
  cfg.sft.optimizer.learning_rate = 4e-3

  cfg.rollout.difficulty = cfg.eval.difficulty = (3, 3)
  cfg.steps = 150
  cfg.learn.n_mc = 8
  # There are 227 validation items with a carry, and 263 test items.
  cfg.eval.size = cfg.eval.batch_size = 256
  return cfg
