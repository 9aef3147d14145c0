"""The test puzzles that published tables are of: d1's and SPG's.

Evaluation alone: there is no train split, and papers train on files that are
not public. d1 (arXiv 2504.12216) draws 256 of its 500 Sudokus by numpy's old
generator with seed 42; a quarter of the 500 have more than one solution. SPG
(arXiv 2510.09541) made 256 with one solution each.
"""

import csv
import functools
import io
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from dlrl.tasks.countdown import data as countdown_data
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import published

_D1 = ("https://raw.githubusercontent.com/dllm-reasoning/d1/"
       "837888f22c21a5da91a0af2b0d7b19e81d9b47ec/dataset/")
_SPG = ("https://raw.githubusercontent.com/facebookresearch/SPG/"
        "a1c712091aee3fde759bbf73b7850546265cd52d/dataset/")
_D1_DRAWN, _D1_SEED = 256, 42


class SudokuD1(published.Published):
  """Rows of `puzzle` and `solution`, one of those there are."""

  VERSION = tfds.core.Version("1.0.0")
  DESCRIPTION = "The 256 4x4 Sudokus that d1 and its descendants evaluate."
  COLUMNS: Mapping[str, type] = {
    "puzzle": str, "solution": str, "difficulty": int, "index": int}
  DIFFICULTIES = (1, 15)  # blanks
  FILES: Mapping[str, published.File] = {"test": published.File(
    "sudoku/d1_4x4_test_sudoku.csv", _D1 + "4x4_test_sudoku.csv",
    ("ef86c7c28ebef88484d85fda59b3909a"
     "7b621241aa1abf36343437dbc4a3ffb6",))}
  SHA256: Mapping[str, str] = {"test": ""}

  def parse(self, contents: Mapping[str, bytes]
            ) -> Mapping[str, list[checked.Row]]:
    """The drawn ones, in the order of the file."""
    rows = _sudokus(contents["test"])
    drawn = np.random.RandomState(_D1_SEED).choice(
      len(rows), _D1_DRAWN, replace=False)
    return {"test": [rows[i] for i in sorted(drawn.tolist())]}


class SudokuSpg(SudokuD1):
  """Rows as of `SudokuD1`."""

  DESCRIPTION = "The 256 4x4 Sudokus that SPG evaluates."
  FILES: Mapping[str, published.File] = {"test": published.File(
    "sudoku/spg_test_sudoku_split_new.csv", _SPG + "test_sudoku_split_new.csv",
    ("bd93420f34f57f6b73c1a4080e70dd2f"
     "9366901b9b759132bb8f098c5339929d",))}
  SHA256: Mapping[str, str] = {"test": ""}

  def parse(self, contents: Mapping[str, bytes]
            ) -> Mapping[str, list[checked.Row]]:
    """All of them."""
    return {"test": _sudokus(contents["test"])}


class CountdownD1(published.Published):
  """Rows of `puzzle`, `30,100,93=23`, and a `solution`, which is not d1's."""

  VERSION = tfds.core.Version("1.0.0")
  DESCRIPTION = "The 256 problems of Countdown that d1 evaluates."
  COLUMNS: Mapping[str, type] = {
    "puzzle": str, "solution": str, "difficulty": int, "index": int}
  DIFFICULTIES = countdown_data.DIFFICULTIES
  FILES: Mapping[str, published.File] = {"test": published.File(
    "countdown/d1_countdown_cd3_test.jsonl", _D1 + "countdown_cd3_test.jsonl",
    ("9916f614621e26fb2b035ed4ea641e35"
     "e4fff0d533bb9b9c7bcaaa61017d88c6",))}
  SHA256: Mapping[str, str] = {"test": ""}

  def parse(self, contents: Mapping[str, bytes]
            ) -> Mapping[str, list[checked.Row]]:
    """All of them."""
    return {"test": [
      _countdown(index, f"{item['input']}={item['output']}")
      for index, item in enumerate(published.json_lines(contents["test"]))]}


load_sudoku_d1 = functools.partial(published.load, SudokuD1)
load_sudoku_spg = functools.partial(published.load, SudokuSpg)


def load_countdown_d1(data_dir: str, split: str, difficulty: tuple[int, int],
                      *, field: str = "difficulty"
                      ) -> Sequence[dict[str, Any]]:
  """`published.load` of `CountdownD1`, with `numbers` and `target`."""
  rows = published.load(CountdownD1, data_dir, split, difficulty, field=field)
  return [{**row, **dict(zip(
    ("numbers", "target"), countdown.problem_of(row["puzzle"]), strict=True))}
    for row in rows]


def _countdown(index: int, puzzle: str) -> checked.Row:
  numbers, target = countdown.problem_of(puzzle)
  solution = countdown_data.solutions(tuple(numbers))[target]
  return {"puzzle": puzzle, "solution": solution, "index": index,
          "difficulty": countdown_data.difficulty(solution)}


def _sudokus(content: bytes) -> list[checked.Row]:
  return [
    {"puzzle": item["Puzzle"], "solution": item["Solution"],
     "difficulty": item["Puzzle"].count("0"), "index": index}
    for index, item in enumerate(csv.DictReader(io.StringIO(content.decode())))]
