"""Questions and answers in English on a CPU, with a model that reads any text.

A model of 180,000 parameters is fine-tuned on `What is between 42 and 51?`, and
goes on with rewards. Many answers are right, and each example has one of them:
fine-tuning spreads probability over many numbers, wrong ones among them, and
rewards say which are right. The model reads and writes bytes, so that the same
settings take files of one's own (`task.name=files`).
"""

import ml_collections

from dlrl.presets import sudoku_tiny


def bgpo() -> ml_collections.ConfigDict:
  """The run of `configs/bgpo.py:text`."""
  cfg = sudoku_tiny.bgpo()
  cfg.task.name = "number_between"
  cfg.task.prompt_length = 40  # our questions need 26; for files of one's own
  cfg.model.vocab_size = 259  # all bytes, see `char_tokenizer.find`

  # Stopped early on purpose: this answers half of the questions, and of eight
  # samples one is right for most, so that rewards have much to say.
  cfg.sft.difficulty = (1, 3)
  cfg.sft.steps = 300
  cfg.sft.batch_size = 96
  cfg.sft.optimizer.learning_rate = 6e-3

  # Not where the two numbers are far apart: `fifty` is often right there, and
  # soon the model answered little else.
  cfg.rollout.difficulty = cfg.eval.difficulty = (2, 3)
  cfg.steps = 150
  cfg.rollout.prompts = 64
  cfg.rollout.group_size = 4
  # Two tokens a step mix letters, most often of long names: rewards then made
  # answers short before they made them right.
  cfg.rollout.sampler.steps = 16
  cfg.learn.negative_weight = 0.5
  cfg.learn.optimizer.learning_rate = 4e-4
  cfg.learn.optimizer.warmup_steps = 5
  cfg.learn.micro_batch = 32
  cfg.learn.n_mc = 8
  cfg.eval.size = cfg.eval.batch_size = 256
  cfg.eval.every = 10
  return cfg
