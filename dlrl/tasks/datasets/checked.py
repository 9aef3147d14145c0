"""TFDS datasets that are checked when they are made and when they are read.

A checksum guards the rows of each split, so that one version means the same
rows everywhere.
"""

import abc
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import uuid
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from dlrl import strict
from dlrl.tasks.datasets import rows as rows_lib

# TFDS is imported where it is used: it takes half a second, which programs that
# read no dataset need not wait for.

Row = rows_lib.Row
_AT_ONCE = 1000  # rows that are read together


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(abc.ABC):
  """Rows with an int `difficulty`, in splits and in an order of their own.

  Attributes:
    name: of its directory below `task.data_dir`.
    version: a new one for any change of the rows.
    description: one sentence.
    columns: the type of each: `str`, `int`, or `list` for strings.
    difficulties: the lowest and the highest.
    sha256: checksum of each split's rows; "" if the rows were not at hand when
      this was written.
    example: makes a task's example of a row.
  """

  name: str
  version: str
  description: str
  columns: Mapping[str, type]
  difficulties: tuple[int, int]
  sha256: Mapping[str, str]
  example: Callable[[Row], Row] = dict

  @abc.abstractmethod
  def splits(self, placed: epath.Path) -> Mapping[str, Sequence[Row]]:
    """Makes the rows of each split, in the order of `rank`.

    Args:
      placed: directory of files that users bring.
    """

  @staticmethod
  @abc.abstractmethod
  def rank(row: Row) -> Any:
    """The sort key of rows: TFDS stores them in an order of its own."""

  @staticmethod
  @abc.abstractmethod
  def digest(rows: Iterable[Row]) -> str:
    """SHA-256 of the rows in the given order, in hex."""

  @property
  def origin(self) -> str:
    """Identifies what the rows are made of."""
    return f"{self.name} {self.version}"

  @property
  def checksum(self) -> str:
    """One SHA-256 of the checksums of all splits, in hex.

    `origin` stands for the rows whose checksum is not known.
    """
    lines = "".join(f"{split} {digest or self.origin}\n"
                    for split, digest in sorted(self.sha256.items()))
    return hashlib.sha256(lines.encode()).hexdigest()

  def intact(self, rows: Sequence[Row], split: str) -> bool:
    """Whether the rows have the split's checksum, if that is known."""
    return self.sha256[split] in ("", self.digest(rows))

  def load(self, data_dir: str, split: str, difficulty: tuple[int, int], *,
           field: str = "difficulty") -> rows_lib.Selected:
    """The examples of a split in a range of difficulties.

    Prepares the dataset first if it is not there. Processes may prepare the
    same directory at the same time, and be killed while they do.

    Args:
      data_dir: directory of TFDS; `~` is expanded.
      split: a key of `sha256`.
      difficulty: the lowest and the highest wanted.
      field: the setting that `difficulty` came from, for the message.

    Returns:
      Examples in the order of `rank`. Each has an `index` that identifies it
      in its split, whatever is selected.

    Raises:
      strict.ConfigError: the dataset has no such split, or no row of that
        difficulty; the directory cannot be written, or holds something else; or
        a file that the rows come from can neither be found nor downloaded.
    """
    strict.require(split in self.sha256, "task.name", self.name,
                   f"has no {split} rows, only {', '.join(self.sha256)}; name "
                   "one of these splits, or another task")
    low, high = difficulty
    rows = _rows(self, data_dir, split)
    found = np.flatnonzero(
      (low <= rows.difficulty) & (rows.difficulty <= high))
    strict.require(
      found.size > 0, field, difficulty, "no row matches; use a range that "
      "overlaps {}..{}".format(*self.difficulties))
    return rows_lib.Selected(rows, found, self.example)


def _rows(dataset: Dataset, data_dir: str, split: str) -> rows_lib.Rows:
  with _quiet():
    directory = _prepare(dataset, data_dir)
    return _read(dataset, directory, split, _stamp(directory))


def _prepare(dataset: Dataset, data_dir: str) -> epath.Path:
  """The directory that holds this version, made whole or not at all."""
  root = epath.Path(data_dir).expanduser()
  done = root / dataset.name / dataset.version
  if done.exists():
    return done
  # TFDS builds in a directory named by `random`, so processes with equal seeds
  # share it, and fails if another process finishes first. A directory of our
  # own and one rename avoid both; a killed process leaves only garbage behind.
  staging = done.parent / f"incomplete.{uuid.uuid4().hex}"
  try:
    staging.mkdir(parents=True)
    _build(dataset, dataset.splits(root / "downloads" / "manual"), staging
           ).rename(done)
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


def _build(dataset: Dataset, splits: Mapping[str, Sequence[Row]],
           directory: epath.Path) -> epath.Path:
  """Writes the rows and returns the directory of the version.

  Raises:
    RuntimeError: the rows are not those of the version.
  """
  import tensorflow_datasets as tfds
  for split, rows in splits.items():
    if not dataset.intact(rows, split):
      raise RuntimeError(f"the {split} rows made here are not those of version "
                         f"{dataset.version}: the generator changed")
  features = {str: tfds.features.Text, int: lambda: np.int32,
              list: lambda: tfds.features.Sequence(tfds.features.Text())}

  class Builder(
    tfds.core.GeneratorBasedBuilder, skip_registration=True,  # type: ignore
  ):
    # TFDS looks for checksums beside the code, with importlib_resources, which
    # it does not install. There are none to be found.
    code_path = None
    name = dataset.name
    VERSION = tfds.core.Version(dataset.version)

    def _info(self) -> tfds.core.DatasetInfo:
      return tfds.core.DatasetInfo(
        builder=self, description=dataset.description,
        features=tfds.features.FeaturesDict(
          {name: features[kind]() for name, kind in dataset.columns.items()}))

    def _split_generators(self, dl_manager: object) -> dict[str, Iterator]:
      del dl_manager
      return {split: self._generate_examples(rows)
              for split, rows in splits.items()}

    def _generate_examples(self, rows: Sequence[Row]
                           ) -> Iterator[tuple[int, Row]]:
      yield from enumerate(rows)

  builder = Builder(data_dir=directory, file_format="array_record")
  builder.download_and_prepare()
  return builder.data_path


def _stamp(directory: epath.Path) -> tuple[tuple[str, int, int], ...]:
  """Differs if a file was changed."""
  return tuple(sorted((path.name, stat.length, stat.mtime)
                      for path in directory.iterdir()
                      for stat in (path.stat(),)))


# A run reads the same rows for fine-tuning, rollouts and evaluation.
@functools.lru_cache(maxsize=8)
def _read(dataset: Dataset, directory: epath.Path, split: str,
          stamp: tuple[tuple[str, int, int], ...]) -> rows_lib.Rows:
  import tensorflow_datasets as tfds
  from tensorflow_datasets.proto import tf_example_pb2
  del stamp  # only part of the cache's key
  try:
    # TFDS takes five times as long to make arrays of a row.
    source = tfds.builder_from_directory(directory).as_data_source(
      split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    places = range(len(source))
    features = (
      tf_example_pb2.Example.FromString(record).features.feature
      for start in places[::_AT_ONCE]
      for record in source.__getitems__(places[start:start + _AT_ONCE]))
    rows = rows_lib.Rows(
      ({name: _plain(row[name], kind)
        for name, kind in dataset.columns.items()} for row in features),
      dataset.rank)
    intact, cause = dataset.intact(rows, split), None
  except Exception as error:  # array_record and TFDS raise all kinds
    intact, cause = False, error
  if not intact:
    raise strict.ConfigError(
        "task.data_dir", os.fspath(directory),
        f"does not hold the {split} rows of version {dataset.version}; "
        "delete this directory and they are made again") from cause
  return rows


def _plain(feature: Any, kind: type) -> Any:
  """A text, int or list of texts of a `tf.train.Feature`."""
  if kind is int:
    return feature.int64_list.value[0]
  texts = [text.decode() for text in feature.bytes_list.value]
  return texts if kind is list else texts[0]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Silences TFDS, whose notes on 2 MB of data would lead every log."""
  import tensorflow_datasets as tfds
  verbosity = logging.get_verbosity()
  logging.set_verbosity(min(verbosity, logging.WARNING))
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    logging.set_verbosity(verbosity)
