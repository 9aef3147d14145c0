"""9x9 Sudoku: random full grids, and which of their cells can be blank.

Depth-first search over the blanks, always the blank with the fewest possible
digits first. Sets of digits are the bits of an int.
"""

from collections.abc import Sequence

import numpy as np

_ALL = (1 << 9) - 1
# For each cell, the numbers of its row, column and box among the 27 units.
_UNITS = tuple((c // 9, 9 + c % 9, 18 + c // 27 * 3 + c % 9 // 3)
               for c in range(81))
_Digits = Sequence[Sequence[int]]


def grid(words: np.random.PCG64) -> list[int]:
  """A random full grid: the digits, 0 to 8, of the 81 cells."""
  order = np.argsort(words.random_raw(81 * 9).reshape(81, 9)).tolist()
  filled = [0] * 81
  _complete([0] * 27, list(range(81)), order, filled)
  return filled


def blanks(filled: Sequence[int], order: Sequence[int]) -> list[int]:
  """A maximal set of cells that can be blank while one solution is left.

  Args:
    filled: a full grid.
    order: all cells, in the order in which they are tried.
  """
  used = [_ALL] * 27
  found: list[int] = []
  for cell in order:
    bit = 1 << filled[cell]
    _flip(used, cell, bit)
    if _has_other(used, found, cell, bit):
      _flip(used, cell, bit)
    else:
      found.append(cell)
  return found


_ASCENDING = [list(range(9))] * 81


def _has_other(used: list[int], others: list[int], cell: int, bit: int) -> bool:
  """Whether the blanks can be filled with another digit than `bit` in `cell`.

  With `bit` there, `others` can be filled in only one way. So a second solution
  exists only if another digit fits.
  """
  row, column, box = _UNITS[cell]
  free = _ALL & ~(used[row] | used[column] | used[box]) & ~bit
  while free:
    other = free & -free
    free ^= other
    attempt = used.copy()
    _flip(attempt, cell, other)
    if _complete(attempt, others, _ASCENDING, [0] * 81):
      return True
  return False


def _complete(used: list[int], empty: list[int], order: _Digits,
              filled: list[int]) -> bool:
  """Fills the empty cells; if that fails, returns False and restores `used`."""
  if not empty:
    return True
  fewest, place, free = 10, 0, 0
  for i, cell in enumerate(empty):
    row, column, box = _UNITS[cell]
    left = _ALL & ~(used[row] | used[column] | used[box])
    count = left.bit_count()
    if count < fewest:
      fewest, place, free = count, i, left
      if count <= 1:
        break
  cell, rest = empty[place], empty[:place] + empty[place + 1:]
  for digit in order[cell]:
    bit = 1 << digit
    if free & bit:
      _flip(used, cell, bit)
      filled[cell] = digit
      if _complete(used, rest, order, filled):
        return True
      _flip(used, cell, bit)
  return False


def _flip(used: list[int], cell: int, bit: int) -> None:
  for unit in _UNITS[cell]:
    used[unit] ^= bit
