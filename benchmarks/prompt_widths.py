"""How wide the prompts of rollouts are computed, and what that saves.

    python -m benchmarks.prompt_widths --config=configs/bgpo.py:PRESET \
      --config.pretrained=DIR --config.task.name=gsm8k --split=train

Prompts of a rollout are padded to the first of a few widths that holds those of
its batch (`data.widths`), instead of to `task.prompt_length`. This encodes the
prompts of a split with the model's tokenizer and chat template, draws batches
of `rollout.prompts` of them and counts their widths. The columns of a row,
prompt and completion, are what a forward pass computes. Weights are not needed.
Prints a line; about a minute.
"""

import collections
from typing import Any

import numpy as np
from absl import app
from absl import flags
from ml_collections import config_flags

from dlrl import data
from dlrl import validate
from dlrl.run import setup as setup_lib

BATCHES = 10_000


def lengths(setup: setup_lib.Setup, split: str) -> list[np.ndarray]:
  """Tokens of all prompts, at most `task.prompt_length`, by task."""
  cfg = setup.cfg
  source = setup.examples(split, (0, 9), field="split")
  item = data.rl_item(
    source, setup.tokenizer, setup.prompt,
    prompt_length=cfg.task.prompt_length, truncate=cfg.task.truncates)
  parts = getattr(source, "parts", [range(len(source))])
  return [np.array([int(item(i)["prompt_length"]) for i in part])
          for part in parts]


def measure(setup: setup_lib.Setup, split: str) -> dict[str, Any]:
  """Shares of the widths, and of the columns that are still computed."""
  found = lengths(setup, split)
  longest, size = setup.cfg.task.prompt_length, setup.cfg.rollout.prompts
  rng = np.random.default_rng(0)
  widths = [data.width(np.concatenate([rng.choice(
    part, size // len(found)) for part in found]), longest)
    for _ in range(BATCHES)]
  completion = setup.cfg.rollout.sampler.gen_length
  return {
    "prompts": [len(part) for part in found],
    "mean": [float(part.mean()) for part in found],
    "longest": [int(part.max()) for part in found],
    "widths": {w: n / BATCHES for w, n in sorted(
      collections.Counter(widths).items())},
    "columns": (np.mean(widths) + completion) / (longest + completion)}


def main(args: list[str]) -> None:
  """Measures and prints."""
  del args
  options = flags.FLAGS
  print(measure(setup_lib.make(validate.from_dict(options.config)),
                options.split), flush=True)


if __name__ == "__main__":
  flags.DEFINE_string("split", "train", "whose prompts are counted")
  config_flags.DEFINE_config_file("config", None, "the preset")
  app.run(main)
