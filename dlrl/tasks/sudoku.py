"""4x4 Sudoku: the grids, the rewards and the metrics.

A puzzle is 16 digits, row by row, 0 for a blank. Its prompt names the cells and
gives the digits in the same order, `abcdefghijklmnop1030040203102001`: so a
transformer that knows relative positions alone finds a cell's place and its
clue at fixed distances. A completion is the 16 digits 1 to 4 of the filled grid
and nothing else. Any valid grid that keeps the clues is right, whichever one
the puzzle was made from. Rewards have TRL's signature and never read the
solution.
"""

import functools
from collections.abc import Callable
from collections.abc import Sequence

DIGITS = "1234"
CELLS = "abcdefghijklmnop"

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


def prompt_of(puzzle: str) -> str:
  """The prompt of a puzzle: the cells' names, then its 16 digits."""
  return CELLS + puzzle


def puzzle_of(prompt: str) -> str:
  """The inverse of `prompt_of`.

  Raises:
    ValueError: it is not the prompt of a puzzle.
  """
  puzzle = prompt.removeprefix(CELLS)
  if prompt != prompt_of(puzzle):
    raise ValueError(f"{prompt!r} is not a puzzle's prompt, {CELLS} and digits")
  _check_puzzle(puzzle)
  return puzzle


def template(prompt: str) -> list[str | int]:
  """What is known of any answer: the clues, with blanks between them.

  Raises:
    ValueError: it is not the prompt of a puzzle.
  """
  return [1 if digit == "0" else digit for digit in puzzle_of(prompt)]


def well_formed(completion: str) -> bool:
  """Whether it is 16 of the ASCII digits 1 to 4, without anything around."""
  # Membership, not str.isdigit or int(): those accept other scripts' digits.
  return len(completion) == 16 and all(c in DIGITS for c in completion)


def clues_kept(puzzle: str, grid: str) -> float:
  """Fraction of the puzzle's clues that `grid`, 16 characters, repeats."""
  _check_puzzle(puzzle)
  clues = [cell for cell in range(16) if puzzle[cell] != "0"]
  kept = sum(grid[cell] == puzzle[cell] for cell in clues)
  return kept / len(clues) if clues else 1.0


def units_valid(grid: str) -> float:
  """Fraction of the 12 rows, columns and boxes that repeat no digit."""
  return sum(len({grid[c] for c in unit}) == 4 for unit in UNITS) / len(UNITS)


def units_score(puzzle: str, completion: str) -> float:
  """Mean of clues kept and units valid, in [0, 1]; 0 if not well formed.

  It is 1 for a solution and for nothing else.
  """
  if not well_formed(completion):
    return 0.0
  return (clues_kept(puzzle, completion) + units_valid(completion)) / 2


def solved(puzzle: str, completion: str) -> bool:
  """Whether the completion is a valid grid that keeps every clue."""
  return units_score(puzzle, completion) == 1.0


def cells(puzzle: str, completion: str, solution: str) -> float:
  """Fraction of blanks equal to `solution`'s, in [0, 1]; 0 if not well formed.

  The score of the published tables. It trusts that the puzzle has one solution
  and, like them, ignores overwritten clues.
  """
  _check_puzzle(puzzle)
  if not well_formed(completion):
    return 0.0
  blanks = [cell for cell in range(16) if puzzle[cell] == "0"]
  right = sum(completion[cell] == solution[cell] for cell in blanks)
  return right / len(blanks) if blanks else float(completion == solution)


def solved_reward(prompts: Sequence[str], completions: Sequence[str],
                  **columns: object) -> list[float]:
  """1 for a solved puzzle and 0 for everything else.

  Raises:
    ValueError: a prompt is not a puzzle's, or the lengths differ. No completion
      raises.
  """
  del columns
  return _each(solved, prompts, completions)


def units_reward(prompts: Sequence[str], completions: Sequence[str],
                 **columns: object) -> list[float]:
  """`units_score`: dense, in [0, 1], and 1 only for a solved puzzle.

  Raises:
    ValueError: as `solved_reward`.
  """
  del columns
  return _each(units_score, prompts, completions)


def metrics(prompts: Sequence[str], completions: Sequence[str], *,
            solution: Sequence[str], **columns: object
            ) -> dict[str, list[float]]:
  """`solved` (0 or 1) and `cells` (in [0, 1]) of every completion.

  Raises:
    ValueError: as `solved_reward`.
  """
  del columns
  return {"solved": _each(solved, prompts, completions),
          "cells": _each(cells, prompts, completions, solution)}


def _each(score: Callable[..., float], *columns: Sequence[str]) -> list[float]:
  return [float(score(puzzle_of(prompt), *rest))
          for prompt, *rest in zip(*columns, strict=True)]


def _check_puzzle(puzzle: str) -> None:
  if len(puzzle) != 16 or any(c not in "0" + DIGITS for c in puzzle):
    raise ValueError(f"{puzzle!r} is not a puzzle: 16 digits from 0 to 4")
