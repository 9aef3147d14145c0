"""Whose rules decide whether a completion is right: ours, or published ones.

The scorers of d1 and SPG let things pass that ours refuse, and the other way
round (`docs/graders.md`). Papers of their lineage report their numbers.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from dlrl.tasks import task as task_lib
from dlrl.tasks.mathematics import gsm8k
from dlrl.tasks.published_scorers import d1
from dlrl.tasks.published_scorers import spg

# (points, out of) of one completion, from its row and its raw text.
_Case = Callable[[task_lib.Example, str], tuple[int, int]]


def _sudoku(row: task_lib.Example, text: str) -> tuple[int, int]:
  return d1.sudoku(row["puzzle"], text, row["solution"])


def _countdown(row: task_lib.Example, text: str) -> tuple[int, int]:
  return d1.countdown("", text, [list(row["numbers"]), row["target"]])


def _gsm8k(row: task_lib.Example, text: str) -> tuple[int, int]:
  return d1.gsm8k("", text, float(gsm8k.gold(row["answer"]).value))


def _gsm8k_spg(row: task_lib.Example, text: str) -> tuple[int, int]:
  return spg.gsm8k("", text, float(gsm8k.gold(row["answer"]).value))


def _math(row: task_lib.Example, text: str) -> tuple[int, int]:
  return d1.math500("", text, row["answer"])


_OF_D1: Mapping[str, _Case] = {
  "countdown": _countdown, "gsm8k": _gsm8k, "math": _math, "sudoku": _sudoku}
_OF_SPG: Mapping[str, _Case] = {**_OF_D1, "gsm8k": _gsm8k_spg}


def _sound(name: str, task: task_lib.Task) -> task_lib.Task:
  del name
  return task


def _legacy(label: str, cases: Mapping[str, _Case], name: str,
            task: task_lib.Task) -> task_lib.Task:
  """The task with the metric `label` before its own.

  Published scorers read all that was decoded, with what follows the end of the
  answer: the column `generation`.
  """
  case = cases.get(name.partition("_")[0])
  if case is None:
    raise ValueError(f"{label} has no scorer of {name!r}, only of "
                     f"{', '.join(cases)} and their variants")

  def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
              generation: Sequence[str], **columns: Any
              ) -> dict[str, Sequence[float | None]]:
    rows = [dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)]
    points = [case(row, text)
              for row, text in zip(rows, generation, strict=True)]
    ours = task.metrics(prompts, completions, **columns)
    return {label: [a / b if b else 0.0 for a, b in points], **ours}

  return dataclasses.replace(
    task, metrics=metrics, out_of={label: lambda row: case(row, "")[1]})


# (name, task) -> the task with these metrics; raises ValueError if it has none.
SCORERS: Mapping[str, Callable[[str, task_lib.Task], task_lib.Task]] = {
  "sound": _sound,
  "legacy_d1": functools.partial(_legacy, "legacy_d1", _OF_D1),
  "legacy_spg": functools.partial(_legacy, "legacy_spg", _OF_SPG),
}
