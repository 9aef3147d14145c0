"""9x9 Sudoku puzzles with one solution, as a TFDS dataset made on the spot.

Full grids are filled at random and emptied cell by cell, as long as one
solution is left: 55 blanks and more. A row is one of these with its digits,
rows, columns and sides exchanged in one of the ways that keep the rules, and
with some of its clues put back, which adds no solution. Each is of a grid that
belongs to one split alone: no solution of test is one of train under any such
exchange. Difficulty is the number of blanks, in steps of 5. Only raw PCG64
words are used, whose stream numpy promises to keep.
"""

import types
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import computed
from dlrl.tasks.sudoku import search_9x9

DIFFICULTIES = (20, 55)  # blanks
STEP = 5
PER_DIFFICULTY = {"train": 600, "validation": 200, "test": 200}
_GRIDS = {"train": 160, "validation": 40, "test": 40}
_SEED = 9999


class Sudoku9x9(computed.Puzzles):
  """Rows of `puzzle`, `solution` and `difficulty`, the number of blanks."""

  VERSION = tfds.core.Version("1.0.0")
  DESCRIPTION = "9x9 Sudoku puzzles with exactly one solution."
  SHA256 = types.MappingProxyType({
    "train": "206993eb21d6122061090ecf6f2d33ca"
             "51f80ae7b2b9eecea73bb919c47305c2",
    "validation": "457b00f18d74820f5048b478f498dc9f"
                  "55da39000b02489ecc46dea4f193dcfc",
    "test": "c7e134cbdff26e773a4a623db646617b"
            "724494771f137d9aac381dae33aead27",
  })

  def rows(self, split: str) -> list[computed.Row]:
    """Of `generate`."""
    return generate(split)


def generate(split: str) -> list[computed.Row]:
  """The split's rows, ordered by difficulty and then puzzle."""
  words = np.random.PCG64([_SEED, list(_GRIDS).index(split)])
  emptied = _emptied(words, _GRIDS[split])
  low, high = DIFFICULTIES
  rows = []
  for blanks in range(low, high + 1, STEP):
    for _ in range(PER_DIFFICULTY[split]):
      filled, order = emptied[int(words.random_raw()) % len(emptied)]
      cells = np.array(order)[np.argsort(words.random_raw(len(order)))]
      rows.append(_row(words, filled, cells[:blanks]))
  return sorted(rows, key=computed.rank)


def load(data_dir: str, split: str, difficulty: tuple[int, int], *,
         field: str = "difficulty") -> Sequence[computed.Row]:
  """As `sudoku_dataset.load`."""
  rows = computed.numbered(Sudoku9x9, data_dir, split)
  return checked.select(rows, difficulty, DIFFICULTIES, field)


def _emptied(words: np.random.PCG64, count: int
             ) -> list[tuple[list[int], list[int]]]:
  """(full grid, cells that can all be blank), at least 55 of them."""
  found: list[tuple[list[int], list[int]]] = []
  while len(found) < count:
    filled = search_9x9.grid(words)
    order = np.argsort(words.random_raw(81)).tolist()
    cells = search_9x9.blanks(filled, order)
    if len(cells) >= DIFFICULTIES[1]:
      found.append((filled, cells))
  return found


def _row(words: np.random.PCG64, filled: Sequence[int], cells: np.ndarray
         ) -> computed.Row:
  """A puzzle with these blanks, of the grid after an exchange at random."""
  solution = np.array(filled).reshape(9, 9) + 1
  puzzle = solution.copy()
  puzzle.ravel()[cells] = 0
  digits = np.concatenate([[0], 1 + np.argsort(words.random_raw(9))])
  rows, columns = _lines(words), _lines(words)
  turned = bool(int(words.random_raw()) % 2)

  def exchanged(grid: np.ndarray) -> str:
    grid = digits[grid][rows][:, columns]
    return "".join(map(str, (grid.T if turned else grid).ravel()))

  return {"puzzle": exchanged(puzzle), "solution": exchanged(solution),
          "difficulty": len(cells)}


def _lines(words: np.random.PCG64) -> np.ndarray:
  """An order of 9 lines that keeps those of a box together."""
  bands = np.argsort(words.random_raw(3))
  return np.concatenate(
    [3 * band + np.argsort(words.random_raw(3)) for band in bands])
