"""4x4 Sudoku puzzles with one solution, as a TFDS dataset made on the spot.

The puzzles come from the 288 grids; nothing is downloaded. Train and test share
no solution: 200 grids and 88. For each number of blanks there are 2,000 train
puzzles and 300 test puzzles. Only raw PCG64 words are used, whose stream numpy
promises to keep.
"""

import functools
import types

import numpy as np
import tensorflow_datasets as tfds

from dlrl.runtime import strict
from dlrl.tasks import generated
from dlrl.tasks import sudoku

DIFFICULTIES = (2, 12)  # blanks; no puzzle with 13 has a single solution
PER_DIFFICULTY = {"train": 2000, "test": 300}
_SEED = 4242
_TRAIN_GRIDS = 200


class Sudoku4x4(generated.Puzzles):
  """Rows of `puzzle`, `solution` and `difficulty`, the number of blanks."""

  VERSION = tfds.core.Version("1.0.0")
  DESCRIPTION = "4x4 Sudoku puzzles with exactly one solution."
  SHA256 = types.MappingProxyType({
    "train": "21e32f822fc5ba8761d8b167cf3d23d1"
             "31fecc7ce6dc104740e414bdef25a798",
    "test": "2c8998b0e7eec9763a10658396b3d1a0"
            "b44fa74f73301032a1986b4fb7b08859",
  })

  def rows(self, split: str) -> list[generated.Row]:
    """Of `generate`."""
    return generate(split)


def generate(split: str) -> list[generated.Row]:
  """The split's rows, ordered by difficulty and then puzzle."""
  grids = sudoku.grids()
  order = np.argsort(np.random.PCG64(_SEED).random_raw(len(grids)))
  chosen = {"train": order[:_TRAIN_GRIDS], "test": order[_TRAIN_GRIDS:]}[split]
  low, high = DIFFICULTIES
  rows = []
  for blanks in range(low, high + 1):
    # Difficulties of both splits draw from streams of their own.
    words = np.random.PCG64([_SEED, blanks, len(chosen)])
    pairs = _unique_pairs(words, chosen, blanks, PER_DIFFICULTY[split])
    rows += [{"puzzle": _puzzle(grids[grid], kept), "solution": grids[grid],
              "difficulty": blanks} for grid, kept in pairs]
  return sorted(rows, key=generated.rank)


def load(data_dir: str, split: str, difficulty: tuple[int, int], *,
         field: str = "difficulty") -> list[generated.Row]:
  """The split's puzzles of some difficulty, prepared first if that is needed.

  Args:
    data_dir: of TFDS; `~` is expanded.
    split: `train` or `test`.
    difficulty: the least and the greatest number of blanks.
    field: the config field that `difficulty` came from, for the message.

  Returns:
    Rows `{"prompt", "solution", "difficulty", "index"}`, ordered by difficulty;
    the index identifies a row among those of both splits, whatever is selected.

  Raises:
    strict.ConfigError: the directory cannot be written or holds something else,
      or no puzzle has that difficulty.
  """
  low, high = difficulty
  least, most = DIFFICULTIES
  strict.require(max(low, least) <= min(high, most), field, difficulty,
                 f"no puzzle matches; blanks go from {least} to {most}")
  rows = generated.load(Sudoku4x4, data_dir, split)
  trains = PER_DIFFICULTY["train"] * (most - least + 1)
  return [{"prompt": sudoku.prompt_of(row["puzzle"]),
           "solution": row["solution"],
           "difficulty": row["difficulty"], "index": index}
          for index, row in enumerate(rows, trains * (split == "test"))
          if low <= row["difficulty"] <= high]


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
