"""Prompts for Sudoku: bare, in our words, and as published runs do.

The texts of other projects (`texts/`) are reconstructed from descriptions:
content and answer format are theirs, the wording is ours. Numbers made with
them are therefore close to a paper's setting, but not the same to the last
token. wd1 and dllm use d1's text. A name that ends in `_eval` is the prompt of
a project's evaluation, which gives the answer's first tag.
"""

import operator
import pathlib
from collections.abc import Mapping

from dlrl.tasks import prompts
from dlrl.tasks import task as task_lib

CELLS = "abcdefghijklmnop"
FIELDS: Mapping[str, task_lib.Show] = {
  "question": operator.itemgetter("puzzle")}

_TEXTS = pathlib.Path(__file__).parent / "texts"
_SIZES: Mapping[str, task_lib.Show] = {
  "size": lambda example: str(len(example["puzzle"])),
  "side": lambda example: {16: "4", 81: "9"}[len(example["puzzle"])],
  "box": lambda example: {16: "2", 81: "3"}[len(example["puzzle"])],
}


def bare(example: task_lib.Example) -> str:
  """The names of the cells, then the digits in the same order.

  A transformer with relative positions only then finds the name of a cell and
  its clue at fixed distances: `abcdefghijklmnop1030040203102001`.
  """
  return CELLS + example["puzzle"]


def _answer(example: task_lib.Example) -> str:
  """d1's frame; the reasoning is the puzzle and its solution row by row."""
  lines = []
  for i in range(0, 16, 4):
    before, after = (" ".join(example[column][i:i + 4])
                     for column in ("puzzle", "solution"))
    lines += [f"Row {i // 4 + 1} of the puzzle is {before}.",
              f"With what its columns and boxes lack, it becomes {after}."]
  return prompts.framed(
    "\n".join([*lines, "The rows in their order are the answer."]),
    example["solution"])


def _paper(name: str) -> task_lib.Prompt:
  return task_lib.Prompt(
    prompts.from_file(_TEXTS / f"{name}.txt", FIELDS), _answer)


_D1, _SPG = _paper("d1"), _paper("spg")

PROMPTS = {
  "bare": task_lib.Prompt(bare, between=" ", after="|"),
  "dlrl": task_lib.Prompt(
    prompts.from_file(_TEXTS / "dlrl.txt", FIELDS, _SIZES), prompts.tagged),
  "d1": _D1,
  "d1_eval": prompts.begun(_D1),
  "spg": _SPG,
  "spg_eval": prompts.begun(_SPG),
  "espo": _paper("espo"),
  "espo_eval": prompts.begun(_paper("espo_eval")),
}
PROMPTS9 = {
  # Only the digits: a grid of 81 cells has more cells than there are letters.
  "bare": task_lib.Prompt(FIELDS["question"], between=" ", after="|"),
  "dlrl": PROMPTS["dlrl"],
}
