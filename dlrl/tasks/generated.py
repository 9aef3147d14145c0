"""TFDS datasets whose rows are computed: made on the spot, checked when read.

Nothing is downloaded. A checksum guards the rows when made and when read, so
that the same version is the same rows everywhere.
"""

import abc
import contextlib
import hashlib
import io
import os
import uuid
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from dlrl.runtime import strict

Row = dict[str, Any]


class Puzzles(tfds.core.GeneratorBasedBuilder, abc.ABC):
  """Rows of the texts `puzzle` and `solution`, and the int `difficulty`.

  A subclass says `VERSION`, `DESCRIPTION`, `SHA256` by split, and `rows`.
  """

  # Nothing is downloaded, so TFDS need not look for checksums beside the code;
  # it would import importlib_resources, which it does not install.
  code_path = None
  DESCRIPTION: str
  SHA256: Mapping[str, str]

  @abc.abstractmethod
  def rows(self, split: str) -> Sequence[Row]:
    """The split's rows, in the order of `rank`."""

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description=self.DESCRIPTION,
        features=tfds.features.FeaturesDict({
            "puzzle": tfds.features.Text(),
            "solution": tfds.features.Text(),
            "difficulty": np.int32,
        }),
    )

  def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
    del dl_manager
    return {split: self._generate_examples(split) for split in self.SHA256}

  def _generate_examples(self, split: str) -> Iterator[tuple[str, Row]]:
    rows = self.rows(split)
    if checksum(rows) != self.SHA256[split]:
      raise RuntimeError(f"the {split} puzzles made here are not those of "
                         f"version {self.VERSION}: the generator changed")
    for row in rows:
      yield row["puzzle"], row


def checksum(rows: Iterable[Row]) -> str:
  """SHA-256 of the rows in the given order, in hex."""
  digest = hashlib.sha256()
  for row in rows:
    line = "{difficulty} {puzzle} {solution}\n".format_map(row)
    digest.update(line.encode())
  return digest.hexdigest()


def whole_checksum(builder: type[Puzzles]) -> str:
  """One SHA-256 of those of all splits, in hex."""
  lines = "".join(f"{split} {digest}\n"
                  for split, digest in sorted(builder.SHA256.items()))
  return hashlib.sha256(lines.encode()).hexdigest()


def select(rows: Sequence[Row], difficulty: tuple[int, int],
           known: tuple[int, int], field: str) -> Sequence[Row]:
  """The rows whose difficulty is in the range.

  Args:
    rows: of a split, in the order of `rank`.
    difficulty: the least and the greatest wanted.
    known: the least and the greatest there are.
    field: the config field that `difficulty` came from, for the message.

  Raises:
    strict.ConfigError: no row has such a difficulty.
  """
  low, high = difficulty
  found = [row for row in rows if low <= row["difficulty"] <= high]
  strict.require(bool(found), field, difficulty, "no row matches; difficulties "
                 f"go from {known[0]} to {known[1]}")
  return found


def rank(row: Row) -> tuple[int, str]:
  """What rows are ordered by; TFDS shuffles in a way of its own."""
  return row["difficulty"], row["puzzle"]


def load(builder: type[Puzzles], data_dir: str, split: str) -> list[Row]:
  """The split's rows in order, prepared first if that is needed.

  Processes may prepare the same directory at the same time, and be killed.

  Args:
    builder: of the dataset.
    data_dir: of TFDS; `~` is expanded.
    split: a key of the builder's checksums.

  Raises:
    strict.ConfigError: the directory cannot be written or holds something else.
  """
  with _quiet():
    return _read(builder, _prepare(builder, data_dir), split)


def numbered(builder: type[Puzzles], data_dir: str, split: str) -> list[Row]:
  """`load` with `index`, which identifies a row in its split."""
  return [{**row, "index": index}
          for index, row in enumerate(load(builder, data_dir, split))]


def _prepare(builder: type[Puzzles], data_dir: str) -> epath.Path:
  """The directory that holds this version, made whole or not at all."""
  root = epath.Path(data_dir).expanduser()
  done = root / builder.name / str(builder.VERSION)
  if done.exists():
    return done
  # TFDS builds under a name from `random`, which processes with equal seeds
  # share, and fails if another one has finished first. A directory of our own
  # and one rename have neither fault; a killed run leaves only rubbish.
  staging = done.parent / f"incomplete.{uuid.uuid4().hex}"
  try:
    staging.mkdir(parents=True)
    made = builder(data_dir=staging, file_format="array_record")
    made.download_and_prepare()
    made.data_path.rename(done)
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


def _read(
    builder: type[Puzzles], directory: epath.Path, split: str) -> list[Row]:
  try:
    source = tfds.builder_from_directory(directory).as_data_source(split)
    rows = [{"puzzle": row["puzzle"].decode(),
             "solution": row["solution"].decode(),
             "difficulty": int(row["difficulty"])}
            for row in source.__getitems__(range(len(source)))]
    rows.sort(key=rank)
    intact, cause = checksum(rows) == builder.SHA256[split], None
  except Exception as error:  # array_record and TFDS raise all kinds
    intact, cause = False, error
  if not intact:
    raise strict.ConfigError(
        "task.data_dir", os.fspath(directory),
        f"does not hold the {split} puzzles of version {builder.VERSION}; "
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
