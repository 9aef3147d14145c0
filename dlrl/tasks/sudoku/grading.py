"""Sudoku of 4x4 and 9x9 cells: the rules, the rewards and the metrics.

A puzzle is 16 digits up to 4, or 81 up to 9, row by row; 0 is a blank. The
answer that a completion states (`answers.final`) has to be the digits of the
filled grid and nothing else. Any valid grid that keeps the clues is right, not
only the grid that the puzzle was made from. Rewards read the column `puzzle`
and never the solution.
"""

import functools
from collections.abc import Callable
from collections.abc import Sequence

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib

# By the number of cells.
DIGITS = {16: "1234", 81: "123456789"}


def _units(box: int) -> tuple[tuple[int, ...], ...]:
  side = box * box
  corners = (side * row + column for row in range(0, side, box)
             for column in range(0, side, box))
  return (
    *(tuple(range(side * i, side * i + side)) for i in range(side)),
    *(tuple(range(i, side * side, side)) for i in range(side)),
    *(tuple(corner + side * i + j for i in range(box) for j in range(box))
      for corner in corners))


# The cells of each row, column and box, all of which hold every digit once.
UNITS = {16: _units(2), 81: _units(3)}


@functools.lru_cache(maxsize=1)
def grids() -> tuple[str, ...]:
  """All 288 valid 4x4 grids as strings of 16 digits, in ascending order."""
  found = [""]
  for cell in range(16):
    seen = {c for unit in UNITS[16] if cell in unit for c in unit if c < cell}
    found = [grid + digit for grid in found for digit in DIGITS[16]
             if all(grid[c] != digit for c in seen)]
  return tuple(found)


def template(example: task_lib.Example) -> list[str | int]:
  """The clues as fixed text, and one free token for each blank."""
  return [1 if digit == "0" else digit for digit in example["puzzle"]]


def well_formed(answer: str, size: int = 16) -> bool:
  """Whether the answer is exactly `size` ASCII digits from 1 on."""
  # Not str.isdigit or int(), which accept the digits of other scripts.
  return len(answer) == size and all(c in DIGITS[size] for c in answer)


def clues_kept(puzzle: str, grid: str) -> float:
  """Fraction of the puzzle's clues that `grid`, of the same size, keeps."""
  clues = [(given, digit) for given, digit in zip(puzzle, grid, strict=True)
           if given != "0"]
  kept = sum(given == digit for given, digit in clues)
  return kept / len(clues) if clues else 1.0


def units_valid(grid: str) -> float:
  """Fraction of the rows, columns and boxes that repeat no digit."""
  units = UNITS[len(grid)]
  return sum(len({grid[c] for c in unit}) == len(unit) for unit in units) / (
    len(units))


def units_score(puzzle: str, answer: str) -> float:
  """Mean of `clues_kept` and `units_valid`, in [0, 1]; 0 if not well formed.

  It is 1 for solutions only.
  """
  _check_puzzle(puzzle)
  if not well_formed(answer, len(puzzle)):
    return 0.0
  return (clues_kept(puzzle, answer) + units_valid(answer)) / 2


def solved(puzzle: str, answer: str) -> bool:
  """Whether the answer is a valid grid that keeps every clue."""
  return units_score(puzzle, answer) == 1.0


def cells(puzzle: str, answer: str, solution: str) -> float:
  """Fraction of blanks filled as in `solution`; 0 if not well formed.

  As in published tables, which pool the blanks of all puzzles, it is assumed
  that the puzzle has one solution, and overwritten clues are ignored.
  """
  _check_puzzle(puzzle)
  if not well_formed(answer, len(puzzle)):
    return 0.0
  blanks = [cell for cell, digit in enumerate(puzzle) if digit == "0"]
  right = sum(answer[cell] == solution[cell] for cell in blanks)
  return right / len(blanks) if blanks else float(answer == solution)


def solved_reward(prompts: Sequence[task_lib.Text], completions: Sequence[str],
                  *, puzzle: Sequence[str], **columns: object) -> list[float]:
  """1 for a solved puzzle and 0 for everything else.

  Raises:
    ValueError: a value of `puzzle` is not a puzzle, or the columns differ in
      length. No completion raises.
  """
  del prompts, columns
  return _each(solved, completions, puzzle)


def units_reward(prompts: Sequence[task_lib.Text], completions: Sequence[str],
                 *, puzzle: Sequence[str], **columns: object) -> list[float]:
  """`units_score`: in [0, 1], and 1 only for a solved puzzle.

  Dense enough to give an untrained model a gradient. One valid grid as the
  answer to all puzzles earns 0.63 on average, without solving any.

  Raises:
    ValueError: see `solved_reward`.
  """
  del prompts, columns
  return _each(units_score, completions, puzzle)


def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
            puzzle: Sequence[str], solution: Sequence[str], **columns: object
            ) -> dict[str, list[float]]:
  """`solved`, `cells` and `format` of every completion, in [0, 1].

  `format` is 1 if the answer is a full grid, valid or not.

  Raises:
    ValueError: see `solved_reward`.
  """
  del prompts, columns
  return {
    "solved": _each(solved, completions, puzzle),
    "cells": _each(cells, completions, puzzle, solution),
    "format": _each(_formed, completions, puzzle)}


def _each(score: Callable[..., float], completions: Sequence[str],
          puzzles: Sequence[str], *columns: Sequence[str]) -> list[float]:
  return [float(score(puzzle, answers.final(completion), *rest))
          for completion, puzzle, *rest in zip(
            completions, puzzles, *columns, strict=True)]


def _formed(puzzle: str, answer: str) -> bool:
  return well_formed(answer, len(puzzle))


def _check_puzzle(puzzle: str) -> None:
  digits = DIGITS.get(len(puzzle), "")
  if not digits or any(c not in "0" + digits for c in puzzle):
    raise ValueError(
      f"puzzle = {puzzle!r}: must be 16 digits from 0 to 4, or 81 digits")
