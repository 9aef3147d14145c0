"""Adds the columns of dlrl's tasks to rows in verl's format.

verl's rows have `prompt` (messages), `data_source`, `reward_model.ground_truth`
and `extra_info`. They keep these and get `task`, the dlrl task of the data
source, and the columns that the task's rewards and metrics read.
"""

import ast
import builtins
import json
import re
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

from dlrl.tasks import task as task_lib
from dlrl.tasks.coding import fences
from dlrl.tasks.mathematics import gsm8k

Columns = dict[str, Any]

_CODE = re.compile(r"^(?:from |import |def |class |@)", re.MULTILINE)
_BETWEEN = re.compile(r"[-_.]")
_SIZE = re.compile(r"n?[0-9]+(?:(?:x|to)[0-9]+)?")  # "4x4", "3to4", "n20000"
# Words of a data source's name that do not change what its answers are. Another
# word may: MathVista is not MATH.
_SAME = frozenset({
  "", "game", "tasks", "main", "lighteval", "hendrycks", "competition",
  "openai", "google", "dapo", "sanitized", "full", "train", "test", "val",
  "validation", "eval", "dev"})


def decode(row: task_lib.Example) -> task_lib.Example:
  """Returns the row with the columns of its task.

  Raises:
    ValueError: the data source is unknown, or the gold answer is not in its
      format.
  """
  source = str(row.get("data_source"))
  task = _task(source)
  try:
    return {**row, "task": task, **_COLUMNS[task](row)}
  except (LookupError, TypeError, ValueError, SyntaxError, AttributeError,
          RecursionError) as error:
    raise ValueError(f"a row of {source!r} is not in the expected format: "
                     f"{error!r}") from error


def _task(source: str) -> str:
  """The task of a data source such as "openai/gsm8k" or "lighteval/MATH"."""
  # "gsm8k", "math500" and "MATH-lighteval", but not "mathvista".
  name = source.rpartition("/")[2].lower()
  for task in _COLUMNS:
    before, found, after = name.partition(task)
    words = _BETWEEN.split(f"{before}-{after}")
    if found and all(word in _SAME or _SIZE.fullmatch(word) for word in words):
      return task
  raise ValueError(
    f"unknown data_source {source!r}; the part after its last '/' must be one "
    f"of {', '.join(_COLUMNS)}, with a size or split such as 'math500' or "
    "'gsm8k_train'")


def _gold(row: task_lib.Example) -> str:
  """The gold answer, a text that is not blank."""
  gold = row["reward_model"]["ground_truth"]
  if not isinstance(gold, str) or not gold.strip():
    raise ValueError(f"ground_truth is {gold!r}; it must be a text")
  return gold


def _math(row: task_lib.Example) -> Columns:
  return {"answer": _gold(row)}


def _gsm8k(row: task_lib.Example) -> Columns:
  gsm8k.gold(_gold(row))  # or raise
  return {"answer": _gold(row)}


def _sudoku(row: task_lib.Example) -> Columns:
  puzzle, solution = row["extra_info"]["puzzle"], _gold(row)
  if not isinstance(puzzle, str) or len(puzzle) != len(solution) or any(
      digit not in "123456789" or clue not in ("0", digit)
      for clue, digit in zip(puzzle, solution, strict=True)):
    raise ValueError(f"{solution!r} does not fill the grid {puzzle!r}")
  return {"puzzle": puzzle, "solution": solution}


def _countdown(row: task_lib.Example) -> Columns:
  """Reads verl's rows, or TinyZero's, whose gold has target and numbers."""
  gold = row["reward_model"]["ground_truth"]
  if isinstance(gold, Mapping):
    target, numbers = gold["target"], gold["numbers"]
  else:
    target, numbers = _gold(row), row["extra_info"]["numbers"]
  if isinstance(numbers, str):
    numbers = json.loads(numbers)
  if len(numbers) == 0:
    raise ValueError("there are no numbers")
  return {"numbers": [_integer(number) for number in numbers],
          "target": _integer(target)}


def _integer(value: object) -> int:
  """An integer that is one or is written as one; `int` would round others."""
  if isinstance(value, str) or (
      isinstance(value, int) and not isinstance(value, bool)):
    return int(value)
  raise ValueError(f"{value!r} is not an integer")


def _mbpp(row: task_lib.Example) -> Columns:
  tests = json.loads(_gold(row))
  if not isinstance(tests, list) or not all(
      isinstance(test, str) and ast.parse(test).body for test in tests):
    raise ValueError("ground_truth must be a list of tests, in JSON")
  called = [{node.func.id for node in ast.walk(ast.parse(test))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
            for test in tests]
  names = set.intersection(*called)
  # Built-in functions that all tests call are not under test, unless nothing
  # else is: one task's function is named `sum`.
  names = names - set(dir(builtins)) or names
  return {"tests": tests, "setup": "", "prefix": "",
          "entry_point": names.pop() if len(names) == 1 else ""}


def _humaneval(row: task_lib.Example) -> Columns:
  asked = row["prompt"][-1]["content"]
  blocks = [block for block in _blocks(asked) if _CODE.search(block)]
  asked = blocks[-1] if blocks else asked
  code = _CODE.search(asked)
  if code is None:
    raise ValueError("the prompt has no code")
  prefix = asked[code.start():]
  # Both are run by themselves before a program is judged.
  functions, checks = _functions(prefix), _functions(_gold(row))
  if not functions or "check" not in checks:
    raise ValueError("the prompt's code must define a function, and "
                     "ground_truth must define check(candidate)")
  entry_point = functions[-1]
  return {"tests": [f"{_gold(row)}\n\ncheck({entry_point})\n"], "setup": "",
          "prefix": prefix, "entry_point": entry_point}


def _blocks(text: str) -> list[str]:
  """Contents of the fenced blocks of a prompt, the last of which may be open.
  """
  lines = fences.lines(text)
  reading = fences.read(lines)
  if reading.open is not None:
    reading = fences.read([*lines, fences.Fence("", reading.open.run)])
  return [content for _, content in reading.complete]


def _functions(code: str) -> list[str]:
  return [node.name for node in ast.parse(code).body
          if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


_COLUMNS: Mapping[str, Callable[[task_lib.Example], Columns]] = {
  "gsm8k": _gsm8k, "math": _math, "mbpp": _mbpp, "humaneval": _humaneval,
  "sudoku": _sudoku, "countdown": _countdown}
