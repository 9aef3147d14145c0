"""Whose rules decide whether a completion is right: ours, or d1's as published.

d1's scorers let things pass that ours refuse, and the other way round
(`docs/graders.md`). Papers of its lineage report their numbers.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

from dlrl.tasks import gsm8k
from dlrl.tasks import legacy_d1
from dlrl.tasks import task as task_lib

# (question, generation, ground truth) of one completion, from its row.
_Case = Callable[[task_lib.Row, str], tuple[int, int]]


def _sudoku(row: task_lib.Row, text: str) -> tuple[int, int]:
  return legacy_d1.sudoku(row["puzzle"], text, row["solution"])


def _countdown(row: task_lib.Row, text: str) -> tuple[int, int]:
  return legacy_d1.countdown("", text, [list(row["numbers"]), row["target"]])


def _gsm8k(row: task_lib.Row, text: str) -> tuple[int, int]:
  return legacy_d1.gsm8k("", text, float(gsm8k.gold(row["answer"]).value))


def _math(row: task_lib.Row, text: str) -> tuple[int, int]:
  return legacy_d1.math500("", text, row["answer"])


_OF_D1: dict[str, _Case] = {
  "countdown": _countdown, "gsm8k": _gsm8k, "math": _math, "sudoku": _sudoku}


def _sound(name: str, task: task_lib.Task) -> task_lib.Task:
  del name
  return task


def _d1(name: str, task: task_lib.Task) -> task_lib.Task:
  case = _OF_D1.get(name.partition("_")[0])
  if case is None:
    raise ValueError(f"d1 has no scorer of {name!r}, only of "
                     f"{', '.join(_OF_D1)} and their variants")

  def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str],
              **columns: Any) -> dict[str, Sequence[float | None]]:
    rows = [dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)]
    points = [case(row, text)
              for row, text in zip(rows, completions, strict=True)]
    ours = task.metrics(prompts, completions, **columns)
    return {"legacy_d1": [a / b if b else 0.0 for a, b in points], **ours}

  return dataclasses.replace(task, metrics=metrics)


# (name, task) -> the task with these metrics; raises ValueError if it has none.
SCORERS = {"sound": _sound, "legacy_d1": _d1}
