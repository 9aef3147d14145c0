"""9x9 Sudoku puzzles with one solution, computed.

Full grids are filled at random and emptied cell by cell while one solution is
left, which gives at least 55 blanks. A row is one of these after a random
symmetry of the rules (a relabelling of digits, an exchange of rows, columns or
both sides), with some clues put back, which adds no solution. Each grid belongs
to one split, so no solution of test is one of train under any symmetry.
Difficulty is the number of blanks, in steps of 5. All random choices use raw
PCG64 words, a stream that NumPy promises to keep.
"""

from collections.abc import Sequence

import numpy as np

from dlrl.tasks.datasets import computed
from dlrl.tasks.sudoku import search_9x9

DIFFICULTIES = (20, 55)  # blanks
STEP = 5
PER_DIFFICULTY = {"train": 600, "validation": 200, "test": 200}
_GRIDS = {"train": 160, "validation": 40, "test": 40}
_SEED = 9999


def generate(split: str) -> list[computed.Row]:
  """The split's rows."""
  words = np.random.PCG64([_SEED, list(_GRIDS).index(split)])
  emptied = _emptied(words, _GRIDS[split])
  low, high = DIFFICULTIES
  rows = []
  for blanks in range(low, high + 1, STEP):
    for _ in range(PER_DIFFICULTY[split]):
      filled, order = emptied[int(words.random_raw()) % len(emptied)]
      cells = np.array(order)[np.argsort(words.random_raw(len(order)))]
      rows.append(_row(words, filled, cells[:blanks]))
  return rows


def _emptied(words: np.random.PCG64, count: int
             ) -> list[tuple[list[int], list[int]]]:
  """`count` pairs of a full grid and at least 55 cells that can be blank."""
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
  """A puzzle with these blanks, after a random symmetry of the rules."""
  solution = np.array(filled).reshape(9, 9) + 1
  puzzle = solution.copy()
  puzzle.ravel()[cells] = 0
  digits = np.concatenate([[0], 1 + np.argsort(words.random_raw(9))])
  rows, columns = _lines(words), _lines(words)
  turned = bool(int(words.random_raw()) % 2)

  def changed(grid: np.ndarray) -> str:
    grid = digits[grid][rows][:, columns]
    return "".join(map(str, (grid.T if turned else grid).ravel()))

  return {"puzzle": changed(puzzle), "solution": changed(solution),
          "difficulty": len(cells)}


def _lines(words: np.random.PCG64) -> np.ndarray:
  """A random order of 9 lines that keeps the lines of a box together."""
  bands = np.argsort(words.random_raw(3))
  return np.concatenate(
    [3 * band + np.argsort(words.random_raw(3)) for band in bands])


SUDOKU9X9 = computed.Puzzles(
  name="sudoku9x9",
  version="1.0.0",
  description="9x9 Sudoku puzzles with exactly one solution.",
  difficulties=DIFFICULTIES,
  generate=generate,
  sha256={
    "train": "206993eb21d6122061090ecf6f2d33ca"
             "51f80ae7b2b9eecea73bb919c47305c2",
    "validation": "457b00f18d74820f5048b478f498dc9f"
                  "55da39000b02489ecc46dea4f193dcfc",
    "test": "c7e134cbdff26e773a4a623db646617b"
            "724494771f137d9aac381dae33aead27",
  })
