"""Whose rules decide whether a completion is right: ours, or published ones.

The scorers of d1 and SPG accept completions that ours refuse, and the other way
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

# (example, raw generation) -> (points, out of)
Points = Callable[[task_lib.Example, str], tuple[int, int]]


def _gsm8k(rule: Callable[[str, str, float | None], tuple[int, int]]) -> Points:
  def points(example: task_lib.Example, generation: str) -> tuple[int, int]:
    gold = example["answer"]
    if isinstance(gold, str):  # as published: a rationale, then the number
      gold = float(gsm8k.gold(gold).value)
    return rule("", generation, gold)

  return points


_D1: Mapping[str, Points] = {
  "countdown": lambda example, generation: d1.countdown(
    "", generation, [list(example["numbers"]), example["target"]]),
  "gsm8k": _gsm8k(d1.gsm8k),
  "math": lambda example, generation: d1.math500(
    "", generation, example["answer"]),
  "sudoku": lambda example, generation: d1.sudoku(
    example["puzzle"], generation, example["solution"]),
}
# By the name of the scorer, then of the task.
PUBLISHED: Mapping[str, Mapping[str, Points]] = {
  "legacy_d1": _D1,
  "legacy_spg": {**_D1, "gsm8k": _gsm8k(spg.gsm8k)},
}


def _sound(name: str, task: task_lib.Task) -> task_lib.Task:
  del name
  return task


def _published(scorer: str, name: str, task: task_lib.Task) -> task_lib.Task:
  """The task with the scorer's metric, named after it, before its own.

  Published scorers read everything that was decoded, including what follows the
  end of the answer: the column `generation`.
  """
  points = PUBLISHED[scorer].get(name.partition("_")[0])
  if points is None:
    raise ValueError(
      f"{scorer} has no scorer for the task {name!r}; use "
      f"{', '.join(PUBLISHED[scorer])} or one of their variants")

  def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
              generation: Sequence[str], **columns: Any
              ) -> dict[str, Sequence[float | None]]:
    examples = [dict(zip(columns, values, strict=True))
                for values in zip(*columns.values(), strict=True)]
    pairs = map(points, examples, generation)
    ours = task.metrics(prompts, completions, **columns)
    return {scorer: [a / b if b else 0.0 for a, b in pairs], **ours}

  return dataclasses.replace(
    task, metrics=metrics,
    out_of={scorer: lambda example: points(example, "")[1]})


# (name, task) -> the task with these metrics; raises ValueError if it has none.
SCORERS: Mapping[str, Callable[[str, task_lib.Task], task_lib.Task]] = {
  "sound": _sound,
  **{scorer: functools.partial(_published, scorer) for scorer in PUBLISHED},
}
