"""The 256 Countdown problems of published tables, which d1 made.

They are for evaluation only: papers train on files that are not public. The
solutions are ours.
"""

from collections.abc import Mapping

from dlrl.tasks.countdown import data as countdown_data
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import published


def _row(index: int, puzzle: str) -> checked.Row:
  numbers, target = countdown.problem_of(puzzle)
  solution = countdown_data.solutions(tuple(numbers))[target]
  return {"puzzle": puzzle, "solution": solution, "index": index,
          "difficulty": countdown_data.difficulty(solution)}


def _splits(contents: Mapping[str, bytes]) -> dict[str, list[checked.Row]]:
  return {"test": [
    _row(index, f"{item['input']}={item['output']}")
    for index, item in enumerate(published.json_lines(contents["test"]))]}


COUNTDOWN_D1 = published.Published(
  name="countdown_d1",
  version="1.0.0",
  description="The 256 problems of Countdown that d1 evaluates.",
  columns={"puzzle": str, "solution": str, "difficulty": int, "index": int},
  difficulties=countdown_data.DIFFICULTIES,
  parse=_splits,
  example=lambda row: {**row, **countdown_data.with_numbers(row)},
  files={"test": published.File(
    "countdown/d1_countdown_cd3_test.jsonl",
    published.D1_URL + "countdown_cd3_test.jsonl",
    ("9916f614621e26fb2b035ed4ea641e35"
     "e4fff0d533bb9b9c7bcaaa61017d88c6",))},
  sha256={"test": "2544e9b374d95d86dde6d227cca63de8"
                  "25105fefac9dae22fb791f4509634f5d"})
