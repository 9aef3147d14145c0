"""Tasks by name: those of `registry`, users' own, their files, and mixtures."""

import dataclasses
from collections.abc import Sequence

from dlrl import config
from dlrl import strict
from dlrl.own_code import imported
from dlrl.tasks import mixture
from dlrl.tasks import prompts
from dlrl.tasks.registry import TASKS
from dlrl.tasks.task import SPLITS
from dlrl.tasks.task import Example
from dlrl.tasks.task import Examples
from dlrl.tasks.task import Prompt
from dlrl.tasks.task import Reward
from dlrl.tasks.task import Task
from dlrl.tasks.task import Text
from dlrl.tasks.task import columns
from dlrl.tasks.user_files import files
from dlrl.tasks.user_files import rewards as rewards_lib
from dlrl.tasks.user_files import templates

__all__ = [
  "SPLITS",
  "TASKS",
  "Example",
  "Examples",
  "Prompt",
  "Reward",
  "Task",
  "Text",
  "columns",
  "find",
  "prompt",
  "prompt_version",
]

FILES = "files"


def find(cfg: config.TaskConfig, rewards: Sequence[str] = ()) -> Task:
  """The task `cfg.name`; names joined by `+` are mixed into one task.

  In a mixture, a user's `package.module:name` is called `name`.

  Args:
    cfg: names of tasks, their weights, and users' files.
    rewards: names of the rewards in use, the only ones of users' files.

  Raises:
    strict.ConfigError: a name is unknown, cannot be imported or is given twice,
      or the weights do not fit the names.
  """
  names = cfg.name.split("+")
  for name in names:
    strict.require(
      name in TASKS or name == FILES or imported.named(name), "task.name",
      cfg.name, f"unknown task {name!r}; use one of "
      f"{', '.join(map(repr, TASKS))} or {FILES!r}, your own as "
      "'package.module:name', or several joined by '+'")
  strict.require(
    len(set(map(_short, names))) == len(names), "task.name", cfg.name,
    "names a task twice; to draw it more often, set task.weights")
  strict.require(
    len(cfg.weights) in (0, len(names)) and all(w > 0 for w in cfg.weights),
    "task.weights", cfg.weights,
    f"must be {len(names)} positive numbers, or () for equal shares")
  if len(names) == 1:
    return _one(cfg.name, cfg, rewards)
  return mixture.mix(
    {_short(name): _one(name, cfg, rewards) for name in names}, cfg.weights)


def prompt(cfg: config.TaskConfig) -> Prompt:
  """The prompt for examples of `find(cfg)`, after `cfg.few_shot` worked ones.

  A prompt file replaces only the question; the answer stays that of
  `cfg.prompt`.

  Raises:
    strict.ConfigError: the train split cannot be read or is too small, or the
      prompt file does not fit the task.
  """
  styles = {}
  for name in cfg.name.split("+"):
    task, short = _one(name, cfg), _short(name)
    styles[short] = task.prompts[cfg.prompt]
    if cfg.prompt_file:
      styles[short] = dataclasses.replace(
        styles[short], question=templates.question(
          cfg.prompt_file, cfg.prompt_text, name, task.fields, task.extras))
    if cfg.few_shot:
      examples = task.load(cfg.data_dir, "train", task.difficulties,
                           field="task.few_shot")
      strict.require(
        len(examples) > cfg.few_shot, "task.few_shot", cfg.few_shot,
        f"must be less than the {len(examples)} train examples of {name!r}")
      styles[short] = prompts.with_examples(
        styles[short], examples, cfg.few_shot)
  if len(styles) == 1:
    return styles[_short(cfg.name)]
  return mixture.prompt(styles)


def prompt_version(cfg: config.TaskConfig) -> str:
  """Identifies the prompt: its name, or its file's name and checksum."""
  if cfg.prompt_file:
    return templates.version(cfg.prompt_file, cfg.prompt_text)
  return cfg.prompt


def _one(
  name: str, cfg: config.TaskConfig, rewards: Sequence[str] = ()
) -> Task:
  if name != FILES:
    found = imported.find(TASKS, name, "task.name")
    strict.require(isinstance(found, Task), "task.name", name,
                   f"must be a dlrl.tasks.Task, got {type(found).__name__}")
    return found
  return files.task(
    files.Files(cfg.train_files, cfg.validation_files, cfg.test_files,
                cfg.bad_rows), rewards_lib.find({}, [
        name for name in rewards if name not in rewards_lib.COMMON]))


def _short(name: str) -> str:
  """The name of a task in a mixture."""
  return name.rpartition(":")[2]
