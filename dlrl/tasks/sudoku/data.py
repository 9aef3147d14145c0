"""4x4 Sudoku puzzles with one solution, computed from the 288 grids.

Train and test share no solution: they use 200 and 88 of the grids. Validation
has other puzzles of the train grids. For each number of blanks there are 2,000
train, 300 validation and 300 test puzzles. All random choices use raw PCG64
words, a stream that NumPy promises to keep.
"""

import functools

import numpy as np

from dlrl.tasks.datasets import computed
from dlrl.tasks.sudoku import grading as sudoku

DIFFICULTIES = (2, 12)  # blanks; no puzzle with 13 has a single solution
# Places among the puzzles of a difficulty, in order of discovery. Validation
# takes those that follow train's, because both use the train grids.
PLACES = {"train": slice(0, 2000), "validation": slice(2000, 2300),
          "test": slice(0, 300)}
_SEED = 4242
_TRAIN_GRIDS = 200


def generate(split: str) -> list[computed.Row]:
  """The split's rows."""
  grids = sudoku.grids()
  order = np.argsort(np.random.PCG64(_SEED).random_raw(len(grids)))
  chosen = order[_TRAIN_GRIDS:] if split == "test" else order[:_TRAIN_GRIDS]
  places = PLACES[split]
  low, high = DIFFICULTIES
  rows = []
  for blanks in range(low, high + 1):
    # Each difficulty has its own stream, and so have train and test.
    words = np.random.PCG64([_SEED, blanks, len(chosen)])
    pairs = _unique_pairs(words, chosen, blanks, places.stop)[places]
    rows += [{"puzzle": _puzzle(grids[grid], kept), "solution": grids[grid],
              "difficulty": blanks} for grid, kept in pairs]
  return rows


def _unique_pairs(words: np.random.PCG64, grids: np.ndarray, blanks: int,
                  count: int) -> list[tuple[int, int]]:
  """`count` distinct (grid, 16-bit set of clues) that fit no other grid."""
  clues = np.flatnonzero(np.bitwise_count(np.arange(1 << 16)) == 16 - blanks)
  found: dict[tuple[int, int], None] = {}  # in order of discovery
  while len(found) < count:
    word = words.random_raw(2 * count)
    grid = grids[word % len(grids)]
    kept = clues[(word >> 32) % len(clues)]
    fits = (_differences()[grid] & kept[:, None]) == 0  # [n, 288]
    unique = fits.sum(1) == 1
    found |= dict.fromkeys(zip(grid[unique].tolist(), kept[unique].tolist(),
                               strict=True))
  return list(found)[:count]


@functools.lru_cache(maxsize=1)
def _differences() -> np.ndarray:
  """[288, 288] 16-bit sets of the cells in which two grids differ."""
  cells = np.array([list(grid) for grid in sudoku.grids()])
  return (cells[:, None] != cells) @ (1 << np.arange(16))


def _puzzle(grid: str, kept: int) -> str:
  return "".join(digit if kept >> cell & 1 else "0"
                 for cell, digit in enumerate(grid))


SUDOKU4X4 = computed.Puzzles(
  name="sudoku4x4",
  version="1.1.0",
  description="4x4 Sudoku puzzles with exactly one solution.",
  difficulties=DIFFICULTIES,
  generate=generate,
  sha256={
    "train": "21e32f822fc5ba8761d8b167cf3d23d1"
             "31fecc7ce6dc104740e414bdef25a798",
    "test": "2c8998b0e7eec9763a10658396b3d1a0"
            "b44fa74f73301032a1986b4fb7b08859",
    "validation": "eafb5e7a041660473f4dc1de39ec6dd1"
                  "8045f6c830b31f395dc446d26bdb0da3",
  })
