"""4x4 Sudoku: the grids, the rewards and the metrics.

A puzzle is 16 digits, row by row, 0 for a blank. The answer that a completion
states (`answers.final`) has to be the 16 digits 1 to 4 of the filled grid and
nothing else. Any valid grid that keeps the clues is right, whichever one the
puzzle was made from. Rewards read the column `puzzle`, never the solution.
"""

import functools
from collections.abc import Callable
from collections.abc import Sequence

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib

DIGITS = "1234"

# The cells of the 4 rows, 4 columns and 4 boxes; each holds 1 to 4 once.
UNITS = (
    *(tuple(range(4 * i, 4 * i + 4)) for i in range(4)),
    *(tuple(range(i, 16, 4)) for i in range(4)),
    *((i, i + 1, i + 4, i + 5) for i in (0, 2, 8, 10)),
)


@functools.lru_cache(maxsize=1)
def grids() -> tuple[str, ...]:
  """All 288 valid grids as strings of 16 digits, in ascending order."""
  found = [""]
  for cell in range(16):
    seen = {c for unit in UNITS if cell in unit for c in unit if c < cell}
    found = [grid + digit for grid in found for digit in DIGITS
             if all(grid[c] != digit for c in seen)]
  return tuple(found)


def template(row: task_lib.Row) -> list[str | int]:
  """What is known of any answer: the clues, with blanks between them."""
  return [1 if digit == "0" else digit for digit in row["puzzle"]]


def well_formed(answer: str) -> bool:
  """Whether it is 16 of the ASCII digits 1 to 4, without anything around."""
  # Membership, not str.isdigit or int(): those accept other scripts' digits.
  return len(answer) == 16 and all(c in DIGITS for c in answer)


def clues_kept(puzzle: str, grid: str) -> float:
  """Fraction of the puzzle's clues that `grid`, 16 characters, repeats."""
  _check_puzzle(puzzle)
  clues = [cell for cell in range(16) if puzzle[cell] != "0"]
  kept = sum(grid[cell] == puzzle[cell] for cell in clues)
  return kept / len(clues) if clues else 1.0


def units_valid(grid: str) -> float:
  """Fraction of the 12 rows, columns and boxes that repeat no digit."""
  return sum(len({grid[c] for c in unit}) == 4 for unit in UNITS) / len(UNITS)


def units_score(puzzle: str, answer: str) -> float:
  """Mean of clues kept and units valid, in [0, 1]; 0 if not well formed.

  It is 1 for a solution and for nothing else.
  """
  if not well_formed(answer):
    return 0.0
  return (clues_kept(puzzle, answer) + units_valid(answer)) / 2


def solved(puzzle: str, answer: str) -> bool:
  """Whether the answer is a valid grid that keeps every clue."""
  return units_score(puzzle, answer) == 1.0


def cells(puzzle: str, answer: str, solution: str) -> float:
  """Fraction of blanks equal to `solution`'s, in [0, 1]; 0 if not well formed.

  The score of the published tables. It trusts that the puzzle has one solution
  and, like them, ignores overwritten clues.
  """
  _check_puzzle(puzzle)
  if not well_formed(answer):
    return 0.0
  blanks = [cell for cell in range(16) if puzzle[cell] == "0"]
  right = sum(answer[cell] == solution[cell] for cell in blanks)
  return right / len(blanks) if blanks else float(answer == solution)


def solved_reward(prompts: Sequence[task_lib.Text], completions: Sequence[str],
                  *, puzzle: Sequence[str], **columns: object) -> list[float]:
  """1 for a solved puzzle and 0 for everything else.

  Raises:
    ValueError: the column `puzzle` holds something else, or the lengths differ.
      No completion raises.
  """
  del prompts, columns
  return _each(solved, completions, puzzle)


def units_reward(prompts: Sequence[task_lib.Text], completions: Sequence[str],
                 *, puzzle: Sequence[str], **columns: object) -> list[float]:
  """`units_score`: dense, in [0, 1], and 1 only for a solved puzzle.

  Raises:
    ValueError: as `solved_reward`.
  """
  del prompts, columns
  return _each(units_score, completions, puzzle)


def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
            puzzle: Sequence[str], solution: Sequence[str], **columns: object
            ) -> dict[str, list[float]]:
  """Of every completion, in [0, 1].

  `solved`, `cells`, and `format`: whether the answer is a grid, of any digits.

  Raises:
    ValueError: as `solved_reward`.
  """
  del prompts, columns
  return {
    "solved": _each(solved, completions, puzzle),
    "cells": _each(cells, completions, puzzle, solution),
    "format": [float(well_formed(answers.final(c))) for c in completions]}


def _each(score: Callable[..., float], completions: Sequence[str],
          puzzles: Sequence[str], *columns: Sequence[str]) -> list[float]:
  return [float(score(puzzle, answers.final(completion), *rest))
          for completion, puzzle, *rest in zip(
            completions, puzzles, *columns, strict=True)]


def _check_puzzle(puzzle: str) -> None:
  if len(puzzle) != 16 or any(c not in "0" + DIGITS for c in puzzle):
    raise ValueError(f"{puzzle!r} is not a puzzle: 16 digits from 0 to 4")
