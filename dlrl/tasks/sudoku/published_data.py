"""The 4x4 Sudokus of published tables: d1's and SPG's test puzzles.

They are for evaluation only: papers train on files that are not public. d1
(arXiv 2504.12216) draws 256 of its 500 puzzles; a quarter of the 500 have more
than one solution, of which `solution` is one. SPG (arXiv 2510.09541) made 256
puzzles with one solution each.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping

import numpy as np

from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import published

_DRAWN, _SEED = 256, 42


def _rows(content: bytes) -> list[checked.Row]:
  return [
    {"puzzle": item["Puzzle"], "solution": item["Solution"],
     "difficulty": item["Puzzle"].count("0"), "index": index}
    for index, item in enumerate(csv.DictReader(io.StringIO(content.decode())))]


def _drawn(contents: Mapping[str, bytes]) -> dict[str, list[checked.Row]]:
  rows = _rows(contents["test"])
  # d1 draws with NumPy's legacy generator.
  drawn = np.random.RandomState(_SEED).choice(len(rows), _DRAWN, replace=False)
  return {"test": [rows[i] for i in sorted(drawn.tolist())]}


SUDOKU_D1 = published.Published(
  name="sudoku_d1",
  version="1.0.0",
  description="The 256 4x4 Sudokus that d1 and its descendants evaluate.",
  columns={"puzzle": str, "solution": str, "difficulty": int, "index": int},
  difficulties=(1, 15),  # blanks
  parse=_drawn,
  files={"test": published.File(
    "sudoku/d1_4x4_test_sudoku.csv",
    published.D1_URL + "4x4_test_sudoku.csv",
    ("ef86c7c28ebef88484d85fda59b3909a"
     "7b621241aa1abf36343437dbc4a3ffb6",))},
  sha256={"test": "ca884da798ae66f5664db5e37e8bdd6e"
                  "25e91fd1764b216e6ba4f305cf3c7cb5"})
SUDOKU_SPG = dataclasses.replace(
  SUDOKU_D1,
  name="sudoku_spg",
  description="The 256 4x4 Sudokus that SPG evaluates.",
  parse=lambda contents: {"test": _rows(contents["test"])},
  files={"test": published.File(
    "sudoku/spg_test_sudoku_split_new.csv",
    "https://raw.githubusercontent.com/facebookresearch/SPG/"
    "a1c712091aee3fde759bbf73b7850546265cd52d/dataset/"
    "test_sudoku_split_new.csv",
    ("bd93420f34f57f6b73c1a4080e70dd2f"
     "9366901b9b759132bb8f098c5339929d",))},
  sha256={"test": "d2b4de2e547491a4af733d2d353bb993"
                  "fe8eb4fed0928ce199450067b95d6754"})
