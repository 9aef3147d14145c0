"""Rewards by name: those of a task, and users' own by dotted path."""

import importlib
from collections.abc import Mapping
from collections.abc import Sequence

from dlrl import strict
from dlrl.tasks import task as task_lib

_FIELD = "rollout.rewards"
TAKEN = ("mean", "std", "infrastructure_errors")  # of the log


def find(known: Mapping[str, task_lib.Reward], names: Sequence[str]
         ) -> dict[str, task_lib.Reward]:
  """The functions by the names they are logged under.

  Args:
    known: the task's, by name.
    names: keys of `known`, or `package.module:function`, which is
      imported and logged as `function`.

  Raises:
    strict.ConfigError: a name is unknown, cannot be imported or is logged
      twice.
  """
  found: dict[str, task_lib.Reward] = {}
  for name in names:
    short = name.rpartition(":")[2]
    strict.require(short not in found and short not in TAKEN, _FIELD, name,
                   f"reward/{short} is in the log already; rename a function")
    if ":" in name:
      found[short] = _imported(name)
    else:
      strict.require(
        name in known, _FIELD, name,
        f"unknown; choose from {', '.join(map(repr, known)) or 'none'}, or "
        "write 'package.module:function'")
      found[short] = known[name]
  return found


def _imported(path: str) -> task_lib.Reward:
  module, _, function = path.rpartition(":")
  try:
    found = getattr(importlib.import_module(module), function)
  except Exception as e:  # of a user's module: anything
    raise strict.ConfigError(
      _FIELD, path, f"cannot be imported: {type(e).__name__}: {e}") from e
  strict.require(callable(found), _FIELD, path,
                 f"is no function but {type(found).__name__}")
  return found
