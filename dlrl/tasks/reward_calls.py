"""Calls reward functions and checks what they return.

Training, evaluation and metrics all go through `each`, which calls a function
once for the completions it is given. Metrics that are made of rewards read them
from the column `COLUMN` where they are known already.
"""

import inspect
import math
import reprlib
import traceback
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlrl import strict
from dlrl.tasks import task as task_lib

COLUMN = "dlrl_rewards"  # of what `each` returned
# A column of completions that were decoded here: see `sampling.speed`. Only
# functions that name it are passed it, so that others may go without `columns`.
MEASURED = "dlrl_tokens_per_forward"
# Squares of rewards are summed up in fp32, which ends at 3e38.
_LARGEST = 1e15
_SHOWN = 8  # rows named in a message


class RewardError(ValueError):
  """A reward function failed; the last line says which, where and why."""

  def __init__(self, name: str, problem: str, columns: Mapping[str, Any],
               before: str = "") -> None:
    super().__init__(
      f"{before}the reward {name!r} {problem}. {_there(columns)} "
      "(config.rollout.rewards)")


def each(
  functions: Mapping[str, task_lib.Reward], prompts: Sequence[task_lib.Text],
  completions: Sequence[str], columns: Mapping[str, Sequence[Any]],
) -> list[dict[str, float | None]]:
  """The rewards of each completion by name; None where not known.

  Args:
    functions: by the names under which they are logged.
    prompts: what the model was asked.
    completions: its answers; without any, no function is called.
    columns: the examples' columns, one entry per completion.

  Raises:
    RewardError: a function raises, or does not return one finite number, or
      None, per completion.
  """
  found: list[dict[str, float | None]] = [{} for _ in completions]
  if not completions:
    return found
  for name, function in functions.items():
    given = _given(function, columns)
    values = _call(name, function, prompts, completions, given)
    for place, value in enumerate(values):
      found[place][name] = _number(name, value, place, given)
  return found


def check(functions: Mapping[str, task_lib.Reward],
          columns: Mapping[str, Any]) -> None:
  """Raises `strict.ConfigError` for a function that cannot take the columns."""
  for name, function in functions.items():
    given = _given(function, {**columns, MEASURED: []})
    if problem := _unfit(function, given):
      raise strict.ConfigError(
        "rollout.rewards", name, f"{problem}. {_there(given)}")


def _given(function: task_lib.Reward, columns: Mapping[str, Any]
           ) -> Mapping[str, Any]:
  """The columns that the function is called with."""
  try:
    if MEASURED in inspect.signature(function).parameters:
      return columns
  except (TypeError, ValueError):  # some builtins have none
    pass
  return {key: column for key, column in columns.items() if key != MEASURED}


def _unfit(function: task_lib.Reward, columns: Mapping[str, Any]) -> str:
  try:
    signature = inspect.signature(function)
  except (TypeError, ValueError):  # some builtins have none
    return ""
  try:
    signature.bind([], [], **columns)
  except TypeError as error:
    return f"cannot be called as f(prompts, completions, **columns): {error}"
  kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction,
           inspect.isasyncgenfunction)
  if any(kind(each) for kind in kinds
         for each in (function, type(function).__call__)):
    return ("is async or a generator; it has to return a list with one number, "
            "or None, for each completion (asyncio.run inside it is fine)")
  return ""


def _there(columns: Mapping[str, Any]) -> str:
  return f"The columns are {sorted(columns)}"


def _call(name: str, function: task_lib.Reward,
          prompts: Sequence[task_lib.Text], completions: Sequence[str],
          columns: Mapping[str, Sequence[Any]]) -> list[Any]:
  if problem := _unfit(function, columns):
    raise RewardError(name, problem, columns)
  rows = _rows(columns, range(len(completions)))
  try:
    # Of copies, which a function may sort or empty.
    values = function(list(prompts), list(completions),
                      **{key: list(column) for key, column in columns.items()})
  except strict.ConfigError:
    raise  # says what to do
  # A user's function can raise anything, and a script's may call sys.exit.
  except (Exception, SystemExit) as error:
    frames = traceback.format_tb(error.__traceback__)[1:]  # without this one
    try:
      text = reprlib.repr(str(error))  # may quote a completion
    except Exception:
      text = "no message"
    raise RewardError(
      name, f"raised {type(error).__name__}({text}) for completions of {rows}",
      columns, "".join([f"in the reward {name!r}:\n", *frames])) from error
  if inspect.iscoroutine(values):
    values.close()  # or Python's warning would be the last line
  if (isinstance(values, str | bytes | Mapping)
      or not hasattr(values, "__getitem__") or not hasattr(values, "__len__")
      or not getattr(values, "shape", (1,))):
    raise RewardError(
      name, f"returned {reprlib.repr(values)} for completions of {rows}; "
      "return a list with one number, or None, for each", columns)
  try:
    found = list(values)
  except Exception as error:
    raise RewardError(
      name, f"returned {type(values).__name__}, which cannot be read "
      f"({type(error).__name__}), for completions of {rows}; return a list "
      "with one number, or None, for each", columns) from error
  if len(found) != len(completions):
    raise RewardError(
      name, f"gave {len(found)} values for {len(completions)} completions of "
      f"{rows}; return one number, or None, for each", columns)
  return found


def _number(name: str, value: Any, place: int,
            columns: Mapping[str, Sequence[Any]]) -> float | None:
  if value is None:
    return None
  try:
    # Not of texts, and not of lists with one number, which float() would read.
    number = math.nan if isinstance(value, str | bytes) or np.ndim(value) else (
      float(value))
  except Exception:  # of users' own numbers, and of frameworks
    number = math.nan
  if not abs(number) <= _LARGEST:
    raise RewardError(
      name, f"gave {reprlib.repr(value)} for a completion of "
      f"{_rows(columns, [place])}; return a finite number of at most "
      f"{_LARGEST:g} in size, or None if it is not known", columns)
  return number


def _rows(columns: Mapping[str, Sequence[Any]], places: Sequence[int]) -> str:
  """The examples in words: `row 3`, `rows 3, 7 of gsm8k, 8`."""
  if "index" not in columns:
    return "completion " + ", ".join(map(str, places[:_SHOWN]))
  tasks = columns.get("task", [None] * len(columns["index"]))
  rows = list(dict.fromkeys(
    f"{columns['index'][i]} of {tasks[i]}" if tasks[i]
    else str(columns["index"][i]) for i in places))
  more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
  return f"row{'s' * (len(rows) > 1)} {', '.join(rows[:_SHOWN])}{more}"
