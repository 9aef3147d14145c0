"""What can be learned: one file per task, one line per task in `TASKS`."""

import dataclasses

from dlrl import config
from dlrl.runtime import strict
from dlrl.tasks import countdown
from dlrl.tasks import countdown_dataset
from dlrl.tasks import countdown_prompts
from dlrl.tasks import generated
from dlrl.tasks import mixture
from dlrl.tasks import prompts
from dlrl.tasks import sudoku
from dlrl.tasks import sudoku_dataset
from dlrl.tasks import sudoku_prompts
from dlrl.tasks.task import SPLITS
from dlrl.tasks.task import Prompt
from dlrl.tasks.task import Reward
from dlrl.tasks.task import Row
from dlrl.tasks.task import Rows
from dlrl.tasks.task import Task
from dlrl.tasks.task import Text
from dlrl.tasks.task import columns

__all__ = [
  "SPLITS", "TASKS", "Prompt", "Reward", "Row", "Rows", "Task", "Text",
  "columns", "find", "prompt"]

COUNTDOWN = Task(
    load=countdown_dataset.load,
    prompts=countdown_prompts.PROMPTS,
    rewards={"solved": countdown.solved_reward},
    metrics=countdown.metrics,
    difficulties=countdown_dataset.DIFFICULTIES,
    version="1.1.0",
    checksum=generated.whole_checksum(countdown_dataset.Countdown3),
    template=countdown.template,
)
TASKS = {
    "countdown": COUNTDOWN,
    "countdown_digits": dataclasses.replace(
        COUNTDOWN,
        load=countdown_dataset.load_digits,
        prompts=countdown_prompts.DIGITS,
        checksum=generated.whole_checksum(countdown_dataset.CountdownDigits)),
    "sudoku": Task(
        load=sudoku_dataset.load,
        prompts=sudoku_prompts.PROMPTS,
        rewards={"solved": sudoku.solved_reward, "units": sudoku.units_reward},
        metrics=sudoku.metrics,
        difficulties=sudoku_dataset.DIFFICULTIES,
        version="1.1.0",
        checksum=generated.whole_checksum(sudoku_dataset.Sudoku4x4),
        template=sudoku.template,
    ),
}


def find(cfg: config.Task) -> Task:
  """The task of that name, or several as one, of names joined by `+`.

  Raises:
    strict.ConfigError: a name is unknown or given twice, or the weights do not
      fit the names.
  """
  names = cfg.name.split("+")
  for name in names:
    strict.require(name in TASKS, "task.name", cfg.name,
                   f"{name!r} is unknown; choose from "
                   f"{', '.join(map(repr, TASKS))}, or several joined by '+'")
  strict.require(len(set(names)) == len(names), "task.name", cfg.name,
                 "names a task twice; task.weights says how often one is drawn")
  strict.require(
    len(cfg.weights) in (0, len(names)) and all(w > 0 for w in cfg.weights),
    "task.weights", cfg.weights,
    f"must be {len(names)} positive numbers, or none for equal shares")
  if len(names) == 1:
    return TASKS[cfg.name]
  return mixture.mix({name: TASKS[name] for name in names}, cfg.weights)


def prompt(cfg: config.Task) -> Prompt:
  """How rows of `find(cfg)` are asked, with worked examples if there are any.

  Raises:
    strict.ConfigError: the examples' data cannot be read, or are too few.
  """
  styles = {}
  for name in cfg.name.split("+"):
    task = TASKS[name]
    styles[name] = task.prompts[cfg.prompt]
    if cfg.few_shot:
      rows = task.load(cfg.data_dir, "train", task.difficulties,
                       field="task.few_shot")
      strict.require(len(rows) > cfg.few_shot, "task.few_shot", cfg.few_shot,
                     f"must be less than the {len(rows)} rows of {name!r}")
      styles[name] = prompts.with_examples(styles[name], rows, cfg.few_shot)
  return styles[cfg.name] if len(styles) == 1 else mixture.prompt(styles)
