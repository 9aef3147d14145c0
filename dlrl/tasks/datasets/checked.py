"""TFDS datasets that are checked when they are made and when they are read.

A checksum guards the rows, so that the same version is the same rows
everywhere.
"""

import abc
import contextlib
import functools
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

from dlrl import strict

Row = dict[str, Any]

_FEATURES = {
  str: tfds.features.Text,
  int: lambda: np.int32,
  list: lambda: tfds.features.Sequence(tfds.features.Text()),
}


class Dataset(tfds.core.GeneratorBasedBuilder, abc.ABC):
  """Rows of a few columns, in an order of their own.

  A subclass says `VERSION`, `DESCRIPTION`, and what is named here.

  Attributes:
    COLUMNS: their types: `str`, `int` or, of texts, `list`.
    SHA256: checksum of each split's rows; empty if they were never seen.
    placed: directory for files that users bring; set before it is prepared.
  """

  # Checksums are here; beside the code TFDS need not look for any. It would
  # import importlib_resources, which it does not install.
  code_path = None
  DESCRIPTION: str
  COLUMNS: Mapping[str, type]
  SHA256: Mapping[str, str]
  placed: epath.Path

  @abc.abstractmethod
  def splits(self) -> Mapping[str, Sequence[Row]]:
    """Each split's rows, in the order of `rank`."""

  @staticmethod
  @abc.abstractmethod
  def rank(row: Row) -> Any:
    """What rows are ordered by; TFDS shuffles in a way of its own."""

  @staticmethod
  @abc.abstractmethod
  def checksum(rows: Iterable[Row]) -> str:
    """SHA-256 of the rows in the given order, in hex."""

  @classmethod
  def intact(cls, rows: Sequence[Row], split: str) -> bool:
    """Whether these are the rows of the split, as far as they are known."""
    return cls.SHA256[split] in ("", cls.checksum(rows))

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self, description=self.DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {name: _FEATURES[kind]() for name, kind in self.COLUMNS.items()}))

  def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
    del dl_manager
    return {split: self._generate_examples(split, rows)
            for split, rows in self.splits().items()}

  def _generate_examples(self, split: str, rows: Sequence[Row]
                         ) -> Iterator[tuple[int, Row]]:
    if not self.intact(rows, split):
      raise RuntimeError(f"the {split} rows made here are not those of version "
                         f"{self.VERSION}: the generator changed")
    yield from enumerate(rows)


def load(builder: type[Dataset], data_dir: str, split: str) -> list[Row]:
  """The split's rows in order, prepared first if that is needed.

  Processes may prepare the same directory at the same time, and be killed.

  Args:
    builder: of the dataset.
    data_dir: of TFDS; `~` is expanded.
    split: a key of the builder's checksums.

  Returns:
    Rows of plain Python values.

  Raises:
    strict.ConfigError: the directory cannot be written or holds something else,
      or a file that the rows come from is neither there nor to be had.
  """
  with _quiet():
    directory = _prepare(builder, data_dir)
    return list(_read(builder, directory, split, builder.SHA256[split],
                      _stamp(directory)))


def whole_checksum(builder: type[Dataset]) -> str:
  """One SHA-256 of those of all splits, in hex."""
  lines = "".join(f"{split} {digest}\n"
                  for split, digest in sorted(builder.SHA256.items()))
  return hashlib.sha256(lines.encode()).hexdigest()


def select(rows: Sequence[Row], difficulty: tuple[int, int],
           known: tuple[int, int], field: str) -> list[Row]:
  """The rows whose difficulty is in the range.

  Args:
    rows: of a split.
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


def _prepare(builder: type[Dataset], data_dir: str) -> epath.Path:
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
    made.placed = root / "downloads" / "manual"
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


def _stamp(directory: epath.Path) -> tuple[tuple[str, int, int], ...]:
  """What changes if a file does."""
  return tuple(sorted((path.name, stat.length, stat.mtime)
                      for path in directory.iterdir()
                      for stat in (path.stat(),)))


# A run reads the same rows for fine-tuning, rollouts and evaluation.
@functools.lru_cache(maxsize=8)
def _read(builder: type[Dataset], directory: epath.Path, split: str,
          pinned: str, stamp: tuple[tuple[str, int, int], ...]) -> list[Row]:
  del pinned, stamp  # of the cache's key
  try:
    source = tfds.builder_from_directory(directory).as_data_source(split)
    rows = [{name: _plain(row[name]) for name in builder.COLUMNS}
            for row in source.__getitems__(range(len(source)))]
    rows.sort(key=builder.rank)
    intact, cause = builder.intact(rows, split), None
  except Exception as error:  # array_record and TFDS raise all kinds
    intact, cause = False, error
  if not intact:
    raise strict.ConfigError(
        "task.data_dir", os.fspath(directory),
        f"does not hold the {split} rows of version {builder.VERSION}; "
        "delete this directory and they are made again") from cause
  return rows


def _plain(value: Any) -> Any:
  """A text, an int or a list of texts, of numpy's."""
  if isinstance(value, bytes):
    return value.decode()
  return [_plain(v) for v in value] if np.ndim(value) else int(value)


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
