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

Columns = dict[str, Any]

_CODE = re.compile(r"^(?:from |import |def |class |@)", re.MULTILINE)
_FUNCTION = re.compile(r"^def (\w+)\(", re.MULTILINE)


def decode(row: task_lib.Example) -> task_lib.Example:
  """Returns the row with the columns of its task.

  Raises:
    ValueError: the data source is unknown, or the gold answer is not in its
      format.
  """
  source = str(row.get("data_source"))
  # For example "openai/gsm8k", "lighteval/MATH" or "math500".
  name = source.rpartition("/")[2].lower()
  for task, columns in _COLUMNS.items():
    if name.startswith(task):
      try:
        return {**row, "task": task, **columns(row)}
      except (LookupError, TypeError, ValueError, SyntaxError,
              RecursionError) as error:
        raise ValueError(f"a row of {source!r} is not in the expected format: "
                         f"{error!r}") from error
  raise ValueError(f"unknown data_source {source!r}; the part after its last "
                   f"'/' must start with one of {', '.join(_COLUMNS)}")


def _gold(row: task_lib.Example) -> str:
  return row["reward_model"]["ground_truth"]


def _answer(row: task_lib.Example) -> Columns:
  return {"answer": _gold(row)}


def _sudoku(row: task_lib.Example) -> Columns:
  return {"puzzle": row["extra_info"]["puzzle"], "solution": _gold(row)}


def _countdown(row: task_lib.Example) -> Columns:
  numbers = json.loads(row["extra_info"]["numbers"])
  return {"numbers": [int(n) for n in numbers], "target": int(_gold(row))}


def _mbpp(row: task_lib.Example) -> Columns:
  tests = json.loads(_gold(row))
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
  code = _CODE.search(asked)
  if code is None:
    raise ValueError("the prompt has no code")
  prefix = asked[code.start():]
  entry_point = _FUNCTION.findall(prefix)[-1]
  return {"tests": [f"{_gold(row)}\n\ncheck({entry_point})\n"], "setup": "",
          "prefix": prefix, "entry_point": entry_point}


_COLUMNS: Mapping[str, Callable[[task_lib.Example], Columns]] = {
  "gsm8k": _answer, "math": _answer, "mbpp": _mbpp, "humaneval": _humaneval,
  "sudoku": _sudoku, "countdown": _countdown}
