"""Finds rewards by name: a task's own, those that all tasks have, or users'."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from dlrl import strict
from dlrl.own_code import imported
from dlrl.tasks import task as task_lib

_FIELD = "rollout.rewards"
# dlrl logs reward/NAME, and for users' files eval/NAME.
RESERVED = ("mean", "std", "infrastructure_errors", "items")


def tokens_per_forward(
  prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
  dlrl_tokens_per_forward: Sequence[float], **columns: Any,
) -> Sequence[float]:
  """How fast completions were decoded, see `sampling.speed`."""
  del prompts, completions, columns
  return dlrl_tokens_per_forward


# Rewards of every task.
COMMON: Mapping[str, task_lib.Reward] = {
  "tokens_per_forward": tokens_per_forward}


def find(known: Mapping[str, task_lib.Reward], names: Sequence[str]
         ) -> dict[str, task_lib.Reward]:
  """Returns the reward functions, by the names under which they are logged.

  Args:
    known: the task's rewards, by name.
    names: keys of `known` or `COMMON`, or `package.module:function`, which is
      imported and logged as `function`.

  Raises:
    strict.ConfigError: a name is unknown, cannot be imported, or would be
      logged twice.
  """
  found: dict[str, task_lib.Reward] = {}
  known = {**known, **COMMON}
  for name in names:
    short = name.rpartition(":")[2]
    strict.require(
      short not in found and short not in RESERVED, _FIELD, name,
      f"reward/{short} is already in the log; rename the function")
    if imported.named(name):
      found[short] = _imported(name)
    else:
      strict.require(
        name in known, _FIELD, name,
        f"unknown reward; choose from {', '.join(map(repr, known))}, or name "
        "a function of yours as 'package.module:function'")
      found[short] = known[name]
  return found


def _imported(path: str) -> task_lib.Reward:
  found = imported.load(path, _FIELD)
  strict.require(callable(found), _FIELD, path,
                 f"must be a function, got {type(found).__name__}")
  return found
