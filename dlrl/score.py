"""`python -m dlrl.score --task=math500 FILE.jsonl...`

Scores generations that are in files, one JSON object a line with `question`,
`generation` (as it was decoded, special tokens and all) and `ground_truth`:

    countdown  [[30, 100, 93], 23]: the numbers and the target
    sudoku     "1234...": the solution; the question holds the puzzle
    gsm8k      18.0 or "18" or "... #### 18"; null: there is none, always wrong
    math500    LaTeX

Prints one JSON object: `n` rows, of which the `score` in percent is right by
our graders. `--scorer=legacy_d1` and `legacy_spg` score as the published
evaluations of d1 and SPG, where `points` of Sudoku are cells, `out_of` all that
were blank. Exit codes: 0 scored, 2 a file cannot be.
"""

import json
import pathlib
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from absl import flags

from dlrl.run import command
from dlrl.tasks import answers
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.mathematics import competition
from dlrl.tasks.mathematics import exact_numbers
from dlrl.tasks.mathematics import gsm8k
from dlrl.tasks.published_scorers import d1
from dlrl.tasks.published_scorers import spg
from dlrl.tasks.sudoku import grading as sudoku

# Where a chat model's answer ends: the first special token.
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


class Row(NamedTuple):
  """One line of a file."""

  question: str
  generation: str
  ground_truth: Any

  @property
  def completion(self) -> str:
    """What the model says, without the special tokens that end it."""
    return _SPECIAL.split(self.generation, maxsplit=1)[0]


# (question, generation, ground truth) -> (points, out of)
Case = Callable[[str, str, Any], tuple[int, int]]
# Of every row, each in [0, 1].
Metrics = Mapping[str, Sequence[float]]


def _countdown(rows: Sequence[Row]) -> Metrics:
  solved, well_formed = [], []
  for row in rows:
    given, target = row.ground_truth
    expression = answers.final(row.completion)
    well_formed.append(float(countdown.well_formed(given, expression)))
    solved.append(float(
      well_formed[-1] and
      countdown.value(countdown.tokens(expression) or ()) == target))
  return {"solved": solved, "format": well_formed}


def _sudoku(rows: Sequence[Row]) -> Metrics:
  grids = [(d1.puzzle(row.question), answers.final(row.completion))
           for row in rows]
  return {
    "solved": [float(sudoku.solved(*pair)) for pair in grids],
    "cells": [sudoku.cells(*pair, row.ground_truth)
              for pair, row in zip(grids, rows, strict=True)],
    "format": [float(sudoku.well_formed(grid)) for _, grid in grids]}


def _gsm8k(rows: Sequence[Row]) -> Metrics:
  return {
    "solved": [float(row.ground_truth is not None and gsm8k.correct(
      str(row.ground_truth), row.completion)) for row in rows],
    "format": gsm8k.format_reward(*_texts(rows))}


def _math500(rows: Sequence[Row]) -> Metrics:
  return competition.metrics(
    *_texts(rows), answer=[row.ground_truth for row in rows])


def _texts(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
  return [row.question for row in rows], [row.completion for row in rows]


def _of_number(case: Case) -> Case:
  """The scorer with a gold answer's text in place of its number, too."""
  def score(question: str, generation: str, ground_truth: Any
            ) -> tuple[int, int]:
    if isinstance(ground_truth, str):
      ground_truth = float(gsm8k.gold(ground_truth).value)
    return case(question, generation, ground_truth)

  return score


def _is_problem(row: Row) -> bool:
  truth = row.ground_truth
  return (isinstance(truth, list) and len(truth) == 2
          and isinstance(truth[0], list) and bool(truth[0])
          and all(type(number) is int for number in (*truth[0], truth[1])))


def _is_sudoku(row: Row) -> bool:
  d1.puzzle(row.question)
  return isinstance(row.ground_truth, str) and sudoku.well_formed(
    row.ground_truth)


def _is_number(row: Row) -> bool:
  truth = row.ground_truth
  return truth is None or (
    type(truth) in (int, float, str)
    and exact_numbers.whole(str(truth).rpartition("####")[2]) is not None)


def _is_text(row: Row) -> bool:
  return isinstance(row.ground_truth, str) and bool(row.ground_truth.strip())


class Task(NamedTuple):
  """How the rows of a task are checked and scored."""

  sound: Callable[[Sequence[Row]], Metrics]
  legacy_d1: Case
  legacy_spg: Case
  fits: Callable[[Row], bool]  # whether it can be scored
  expected: str  # of the ground truth


TASKS = {
  "countdown": Task(_countdown, d1.countdown, d1.countdown,
                    _is_problem, "[[numbers...], target], all integers"),
  "sudoku": Task(_sudoku, d1.sudoku, d1.sudoku, _is_sudoku,
                 "16 digits from 1 to 4"),
  "gsm8k": Task(_gsm8k, _of_number(d1.gsm8k),
                _of_number(spg.gsm8k), _is_number, "a number or null"),
  "math500": Task(_math500, d1.math500, d1.math500, _is_text,
                  "a LaTeX text"),
}
SCORERS = ("sound", "legacy_d1", "legacy_spg")


def score(task: str, scorer: str, paths: Sequence[str | pathlib.Path]
          ) -> dict[str, Any]:
  """Scores in percent of all rows of the files together, as described above.

  Raises:
    ValueError: names the file and the line that cannot be scored.
    OSError: a file cannot be read.
  """
  rows = [row for path in paths for row in _rows(path, TASKS[task])]
  if not rows:
    raise ValueError(f"no rows in {', '.join(map(str, paths)) or 'no file'}")
  result = {"task": task, "scorer": scorer, "n": len(rows)}
  if scorer == "sound":
    metrics = dict(TASKS[task].sound(rows))
    solved = metrics.pop("solved")
    points, out_of = int(sum(solved)), len(rows)
    more = {name: _percent(sum(values), len(rows))
            for name, values in metrics.items()}
  else:
    case = {"legacy_d1": TASKS[task].legacy_d1,
            "legacy_spg": TASKS[task].legacy_spg}[scorer]
    pairs = [case(*row) for row in rows]
    points, out_of = (sum(column) for column in zip(*pairs, strict=True))
    more = {}
  return result | {"score": _percent(points, out_of), "points": points,
                   "out_of": out_of} | more


def _percent(part: float, whole: int) -> float:
  return round(100 * part / whole, 2) if whole else 0.0


def _rows(path: str | pathlib.Path, task: Task) -> Iterator[Row]:
  with open(path, "rb") as lines:
    for number, line in enumerate(lines, 1):
      if line.strip():
        try:
          yield _row(line, task)
        except ValueError as e:
          raise ValueError(f"{path}:{number}: {e}") from e


def _row(line: bytes, task: Task) -> Row:
  item = json.loads(line)
  if not isinstance(item, dict):
    raise ValueError("is no JSON object")
  for key in ("question", "generation"):
    if not isinstance(item.get(key), str):
      raise ValueError(f"{key} = {item.get(key)!r}: must be a text")
  row = Row(item["question"], item["generation"], item.get("ground_truth"))
  if "ground_truth" not in item or not task.fits(row):
    raise ValueError(
      f"ground_truth = {row.ground_truth!r}: must be {task.expected}")
  return row


def run(paths: Sequence[str]) -> None:
  """Scores the files as the flags say; prints the result as JSON."""
  result = score(flags.FLAGS.task, flags.FLAGS.scorer, paths)
  print(json.dumps(result), flush=True)


if __name__ == "__main__":
  # Here, because other programs have flags of these names, too.
  flags.DEFINE_enum("task", None, list(TASKS), "of the generations",
                    required=True)
  flags.DEFINE_enum("scorer", "sound", SCORERS, "whose rules decide")
  command.start(run)
