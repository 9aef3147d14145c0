"""4x4 Sudoku puzzles with one solution, as a TFDS dataset made on the spot.

The puzzles come from the 288 grids; nothing is downloaded. Train and test share
no solution: 200 grids and 88. For each number of blanks there are 2,000 train
puzzles and 300 test puzzles. Only raw PCG64 words are used, whose stream numpy
promises to keep, and a checksum guards the rows when made and when read.
"""

import contextlib
import functools
import hashlib
import io
import os
import uuid
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from dlrl.runtime import strict
from dlrl.tasks import sudoku

DIFFICULTIES = (2, 12)  # blanks; no puzzle with 13 has a single solution
PER_DIFFICULTY = {"train": 2000, "test": 300}
SHA256 = {
    "train": "21e32f822fc5ba8761d8b167cf3d23d1"
             "31fecc7ce6dc104740e414bdef25a798",
    "test": "2c8998b0e7eec9763a10658396b3d1a0"
            "b44fa74f73301032a1986b4fb7b08859",
}
_SEED = 4242
_TRAIN_GRIDS = 200

Row = dict[str, Any]


class Sudoku4x4(tfds.core.GeneratorBasedBuilder):
  """Rows of `puzzle`, `solution` and `difficulty`, the number of blanks."""

  VERSION = tfds.core.Version("1.0.0")
  # Nothing is downloaded, so TFDS need not look for checksums beside the code;
  # it would import importlib_resources, which it does not install.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description="4x4 Sudoku puzzles with exactly one solution.",
        features=tfds.features.FeaturesDict({
            "puzzle": tfds.features.Text(),
            "solution": tfds.features.Text(),
            "difficulty": np.int32,
        }),
    )

  def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
    del dl_manager
    return {split: self._generate_examples(split) for split in PER_DIFFICULTY}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, Row]]:
    rows = generate(split)
    if checksum(rows) != SHA256[split]:
      raise RuntimeError(f"the {split} puzzles made here are not those of "
                         f"version {self.VERSION}: the generator changed")
    for row in rows:
      yield row["puzzle"], row


def generate(split: str) -> list[Row]:
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
  return sorted(rows, key=_rank)


def checksum(rows: Iterable[Row]) -> str:
  """SHA-256 of the rows in the given order, in hex."""
  digest = hashlib.sha256()
  for row in rows:
    line = "{difficulty} {puzzle} {solution}\n".format_map(row)
    digest.update(line.encode())
  return digest.hexdigest()


def load(data_dir: str, split: str, difficulty: tuple[int, int], *,
         field: str = "difficulty") -> list[Row]:
  """The split's puzzles of some difficulty, prepared first if that is needed.

  Processes may prepare the same directory at the same time, and be killed.

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
  with _quiet():
    rows = _read(_prepare(data_dir), split)
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


def _rank(row: Row) -> tuple[int, str]:
  return row["difficulty"], row["puzzle"]


def _prepare(data_dir: str) -> epath.Path:
  """The directory that holds this version, made whole or not at all."""
  root = epath.Path(data_dir).expanduser()
  done = root / Sudoku4x4.name / str(Sudoku4x4.VERSION)
  if done.exists():
    return done
  # TFDS builds under a name from `random`, which processes with equal seeds
  # share, and fails if another one has finished first. A directory of our own
  # and one rename have neither fault; a killed run leaves only rubbish.
  staging = done.parent / f"incomplete.{uuid.uuid4().hex}"
  try:
    staging.mkdir(parents=True)
    builder = Sudoku4x4(data_dir=staging, file_format="array_record")
    builder.download_and_prepare()
    builder.data_path.rename(done)
  except OSError as error:
    # Losing the race is success.
    if not done.exists():
      raise strict.ConfigError(
          "task.data_dir", data_dir,
          f"cannot be written ({error}); name a writable directory") from error
  finally:
    with contextlib.suppress(OSError):
      staging.rmtree(missing_ok=True)
  return done


def _read(directory: epath.Path, split: str) -> list[Row]:
  try:
    builder = tfds.builder_from_directory(directory)
    source = builder.as_data_source(split)
    rows = [{"puzzle": row["puzzle"].decode(),
             "solution": row["solution"].decode(),
             "difficulty": int(row["difficulty"])}
            for row in source.__getitems__(range(len(source)))]
    rows.sort(key=_rank)  # TFDS shuffles in a way of its own
    intact, cause = checksum(rows) == SHA256[split], None
  except Exception as error:  # array_record and TFDS raise all kinds
    intact, cause = False, error
  if not intact:
    raise strict.ConfigError(
        "task.data_dir", os.fspath(directory),
        f"does not hold the {split} puzzles of version {Sudoku4x4.VERSION}; "
        "delete this directory and they are made again") from cause
  return rows


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS, whose notes on 2 MB of data would lead every log."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(min(verbosity, logging.WARNING))
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)
