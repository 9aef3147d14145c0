"""`dlrl score --task=math500 FILE.jsonl...`

Scores generations in files, one JSON object a line with `question`,
`generation` (as decoded, including special tokens) and `ground_truth`:

    countdown  [[30, 100, 93], 23]: the numbers and the target
    sudoku     "1234...": the solution; the question holds the puzzle
    gsm8k      18.0 or "18" or "... #### 18"; null: no answer is right
    math500    LaTeX

Prints one JSON object: `score` is the percentage of the `n` generations that
our graders find right; those for which a grader failed are left out and counted
as `unknown`. `--scorer=legacy_d1` and `legacy_spg` score like the published
evaluations of d1 and SPG; for Sudoku, `points` are then cells and `out_of` is
the number of blanks. Exit codes: 0 scored, 2 a file cannot be scored.
"""

import json
import pathlib
import re
import reprlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from absl import flags

from dlrl.run import command
from dlrl.runtime import progress
from dlrl.runtime import terminal
from dlrl.tasks import task as task_lib
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.mathematics import competition
from dlrl.tasks.mathematics import exact_numbers
from dlrl.tasks.mathematics import gsm8k
from dlrl.tasks.published_scorers import d1
from dlrl.tasks.published_scorers import scorers
from dlrl.tasks.sudoku import grading as sudoku

_PART = 64  # generations that are scored at a time
# A chat model's answer ends at the first special token.
_SPECIAL = re.compile(r"<\|[a-z_]+\|>")


class Generation(NamedTuple):
  """One line of a file.

  Attributes:
    question: as it was asked.
    text: as it was decoded.
    example: the columns of the task that metrics and scorers read.
  """

  question: str
  text: str
  example: task_lib.Example

  @property
  def completion(self) -> str:
    """The text up to the first special token."""
    return _SPECIAL.split(self.text, maxsplit=1)[0]


def _countdown(question: str, truth: Any) -> task_lib.Example:
  del question
  _check(isinstance(truth, list) and len(truth) == 2
         and isinstance(truth[0], list) and bool(truth[0])
         and all(type(n) is int for n in (*truth[0], truth[1])),
         truth, "[[numbers...], target], all integers")
  # No metric that is printed depends on the difficulty, which is not known.
  return {"numbers": truth[0], "target": truth[1], "difficulty": 0}


def _sudoku(question: str, truth: Any) -> task_lib.Example:
  _check(isinstance(truth, str) and sudoku.well_formed(truth),
         truth, "16 digits from 1 to 4")
  return {"puzzle": d1.puzzle(question), "solution": truth}


def _gsm8k(question: str, truth: Any) -> task_lib.Example:
  del question
  _check(truth is None or (
    type(truth) in (int, float, str)
    and exact_numbers.whole(str(truth).rpartition("####")[2]) is not None),
    truth, "a number or null")
  return {"answer": truth}


def _math500(question: str, truth: Any) -> task_lib.Example:
  del question
  _check(isinstance(truth, str) and bool(truth.strip()),
         truth, "a LaTeX string")
  return {"answer": truth}


def _check(fits: bool, truth: Any, expected: str) -> None:
  if not fits:
    raise ValueError(
      f"ground_truth = {reprlib.repr(truth)}: must be {expected}")


def _gsm8k_metrics(
  prompts: Sequence[str], completions: Sequence[str], *,
  answer: Sequence[float | str | None]
) -> dict[str, list[float]]:
  """`gsm8k.metrics`, where a gold answer may also be a number or None."""
  return {
    "solved": [float(gold is not None and gsm8k.correct(str(gold), completion))
               for gold, completion in zip(answer, completions, strict=True)],
    "format": gsm8k.format_reward(prompts, completions)}


class Graders(NamedTuple):
  """How the generations of a task are checked and scored.

  Attributes:
    example: (question, ground truth) -> example; raises ValueError.
    metrics: ours; `solved` is the score.
    beside: the metrics that are printed beside the score.
    published: the task's key in the tables of `scorers.PUBLISHED`.
  """

  example: Callable[[str, Any], task_lib.Example]
  metrics: task_lib.Metrics
  beside: tuple[str, ...]
  published: str


TASKS: Mapping[str, Graders] = {
  "countdown": Graders(
    _countdown, countdown.metrics, ("format",), "countdown"),
  "sudoku": Graders(_sudoku, sudoku.metrics, ("cells", "format"), "sudoku"),
  "gsm8k": Graders(_gsm8k, _gsm8k_metrics, ("format",), "gsm8k"),
  "math500": Graders(_math500, competition.metrics, ("format",), "math"),
}


def generation(task: str, question: str, text: str, ground_truth: Any
               ) -> Generation:
  """A generation of the task.

  Raises:
    ValueError: the question or the ground truth does not fit the task.
  """
  return Generation(
    question, text, TASKS[task].example(question, ground_truth))


def sound(task: str, generations: Sequence[Generation]
          ) -> Mapping[str, Sequence[float | None]]:
  """Our metrics, each with one number in [0, 1] per generation."""
  return TASKS[task].metrics(
    [g.question for g in generations], [g.completion for g in generations],
    **task_lib.columns([g.example for g in generations]))


def _in_parts(task: str, generations: Sequence[Generation]
              ) -> Mapping[str, Sequence[float | None]]:
  """`sound`, with progress."""
  found: dict[str, list[float | None]] = {}
  with progress.Count(len(generations), "generations scored") as count:
    for start in range(0, len(generations), _PART):
      part = generations[start:start + _PART]
      for name, values in sound(task, part).items():
        found.setdefault(name, []).extend(values)
      count.step(len(part))
  return found


def points(task: str, scorer: str, one: Generation) -> tuple[int, int]:
  """Points of one generation and their maximum, by a published scorer."""
  rule = scorers.PUBLISHED[scorer][TASKS[task].published]
  return rule(one.example, one.text)


def score(task: str, scorer: str, paths: Sequence[str | pathlib.Path]
          ) -> dict[str, Any]:
  """Scores in percent over all lines of the files, as described above.

  Raises:
    ValueError: names the file and the line that cannot be scored.
    OSError: a file cannot be read.
  """
  generations = [found for path in paths for found in _read(path, task)]
  if not generations:
    files = ", ".join(map(str, paths)) or "an empty list of files"
    raise ValueError(f"no generations in {files}")
  beside: dict[str, float] = {}
  if scorer == "sound":
    metrics = _in_parts(task, generations)
    known = {name: [value for value in values if value is not None]
             for name, values in metrics.items()}
    total, out_of = int(sum(known["solved"])), len(known["solved"])
    beside = {name: _percent(sum(known[name]), len(known[name]))
              for name in TASKS[task].beside}
    if out_of < len(generations):
      beside["unknown"] = len(generations) - out_of
  else:
    pairs = [points(task, scorer, one)
             for one in progress.watched(generations, "generations scored")]
    total, out_of = (sum(column) for column in zip(*pairs, strict=True))
  return {"task": task, "scorer": scorer, "n": len(generations),
          "score": _percent(total, out_of), "points": total, "out_of": out_of,
          **beside}


def _percent(part: float, whole: int) -> float:
  return round(100 * part / whole, 2) if whole else 0.0


def _read(path: str | pathlib.Path, task: str) -> Iterator[Generation]:
  with open(path, "rb") as lines:
    for number, line in enumerate(lines, 1):
      if line.strip():
        try:
          yield _parse(line, task)
        except ValueError as e:
          raise ValueError(f"{path}:{number}: {e}") from e


def _parse(line: bytes, task: str) -> Generation:
  try:
    item = json.loads(line)
  except RecursionError as e:
    raise ValueError("is nested too deeply") from e
  if not isinstance(item, dict):
    raise ValueError(f"must be a JSON object, got {type(item).__name__}")
  for key in ("question", "generation"):
    if not isinstance(item.get(key), str):
      raise ValueError(f"{key} = {item.get(key)!r}: must be a string")
  if "ground_truth" not in item:
    raise ValueError("has no ground_truth")
  return generation(
    task, item["question"], item["generation"], item["ground_truth"])


def run(paths: Sequence[str]) -> None:
  """Scores the files as the flags say; prints the result as JSON."""
  result = score(flags.FLAGS.task, flags.FLAGS.scorer, paths)
  terminal.show(json.dumps(result))


if __name__ == "__main__":
  command.start("score", run)
