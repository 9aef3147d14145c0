"""Files of rows with random access: JSON Lines and Parquet.

At most a few parts of a file are in memory. Values are Python's own types.
"""

import bisect
import collections
import contextlib
import functools
import json
import os
import typing
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import numpy as np

from dlrl import strict
from dlrl.tasks.user_files import messages

if typing.TYPE_CHECKING:
  import pyarrow as pa

# PyArrow is imported where it is used: only Parquet files need it.

Row = dict[str, Any]

_ROW_GROUPS = 4  # how many of a Parquet file stay in memory


class FileError(strict.ConfigError):
  """An error in a file that a setting names: the message starts with the file.

  `value` is the file's path, followed by `:` and the line if one is known.
  """

  def __init__(self, field: str, value: object, fix: str) -> None:
    super().__init__(field, value, fix)
    self.args = (f"{value}: {fix} ({self.shown(field)})",)


class ScannedRow(NamedTuple):
  """A row that `scan` came to.

  Attributes:
    number: its line, or number, counted from 1.
    place: where `row` finds it.
    read: parses the row; may raise `MalformedError`.
  """

  number: int
  place: int
  read: Callable[[], Row]


class Table(Protocol):
  """A file of rows."""

  def scan(self) -> Iterator[ScannedRow]:
    """Goes through all rows in order."""

  def row(self, place: int) -> Row:
    """Returns the row at a place."""

  def where(self, place: int) -> str:
    """Returns the file and the row's number in it, `FILE:NUMBER`."""


class JsonLines:
  """One JSON object on each line; a place is the line's offset in bytes."""

  def __init__(self, path: str) -> None:
    self._path = path

  def scan(self) -> Iterator[ScannedRow]:
    """Goes through all lines that are not blank."""
    place = 0
    with open(self._path, "rb") as file:
      for number, line in enumerate(file, 1):
        if line.strip():
          yield ScannedRow(number, place, functools.partial(_object, line))
        place += len(line)

  def row(self, place: int) -> Row:
    """Returns the object on the line that starts at `place`."""
    with open(self._path, "rb") as file:
      file.seek(place)
      return _object(file.readline())

  def where(self, place: int) -> str:
    """Returns `FILE:LINE`; the first call reads the whole file."""
    return f"{self._path}:{bisect.bisect_left(self._ends, place + 1) + 1}"

  @functools.cached_property
  def _ends(self) -> np.ndarray:
    """Where each line ends. Every row of a large file may be an error."""
    with open(self._path, "rb") as file:
      return np.cumsum(np.fromiter(map(len, file), np.int64))


class Parquet:
  """A Parquet file; a place is the row's number, counted from 0."""

  def __init__(self, path: str) -> None:
    from pyarrow import parquet
    self._path, self._file = path, parquet.ParquetFile(path)
    _check_names(list(self._file.schema_arrow))
    self._starts = [0]  # of row groups
    for group in range(self._file.num_row_groups):
      rows = self._file.metadata.row_group(group).num_rows
      self._starts.append(self._starts[-1] + rows)
    self._group = functools.lru_cache(_ROW_GROUPS)(self._file.read_row_group)

  def scan(self) -> Iterator[ScannedRow]:
    """Goes through all rows; raises `pa.ArrowException` for a damaged group."""
    for group, start in enumerate(self._starts[:-1]):
      table = self._file.read_row_group(group)
      table.validate(full=True)
      for i in range(table.num_rows):
        yield ScannedRow(start + i + 1, start + i,
                         functools.partial(_python, table, i))

  def row(self, place: int) -> Row:
    """Returns a row; reads its row group unless that is still in memory."""
    group = bisect.bisect_right(self._starts, place) - 1
    return _python(self._group(group), place - self._starts[group])

  def where(self, place: int) -> str:
    """Returns `FILE:ROW`."""
    return f"{self._path}:{place + 1}"


FORMATS: Mapping[str, Callable[[str], Table]] = {
  ".jsonl": JsonLines, ".parquet": Parquet}


def open_file(path: str, field: str) -> Table:
  """Opens a file in the format of its suffix.

  Args:
    path: the file.
    field: the config field that names it, for messages.

  Raises:
    FileError: the format is unknown, or the file cannot be read.
  """
  suffix = os.path.splitext(path)[1]
  strict.require(suffix in FORMATS, field, path,
                 f"unknown format; use {' or '.join(FORMATS)}", FileError)
  with _readable(path, field):
    return FORMATS[suffix](path)


def scan(table: Table, path: str, field: str) -> Iterator[ScannedRow]:
  """Goes through all rows of a table.

  Args:
    table: the table of `open_file`.
    path: its file.
    field: the config field that names it, for messages.

  Raises:
    FileError: the file is damaged.
  """
  with _readable(path, field):
    yield from table.scan()


@contextlib.contextmanager
def _readable(path: str, field: str) -> Iterator[None]:
  try:
    yield
  except (OSError, ValueError, _arrow_error()) as error:
    raise FileError(field, path, f"cannot be read: {error}") from error


def _arrow_error() -> type[Exception]:
  import pyarrow as pa
  kind: type[Exception] = pa.ArrowException
  return kind


def _check_names(fields: Sequence["pa.Field"]) -> None:
  """Raises ValueError if columns have the same name, at any depth.

  A Python dict would hold only one of them.
  """
  names = collections.Counter(field.name for field in fields)
  twice = sorted(name for name, count in names.items() if count > 1)
  if twice:
    raise ValueError(f"it has the columns {twice} twice; rename one")
  for field in fields:
    kind = field.type
    _check_names([kind.field(i) for i in range(kind.num_fields)])


def _python(table: "pa.Table", i: int) -> Row:
  return {name: column[i].as_py() for name, column in zip(
    table.column_names, table.columns, strict=True)}


def _object(line: bytes) -> Row:
  try:
    value = json.loads(line, object_pairs_hook=_unique)
  except RecursionError as error:
    raise messages.MalformedError("the JSON is nested too deeply") from error
  except messages.MalformedError:
    raise
  except ValueError as error:  # malformed JSON or UTF-8, or a huge integer
    raise messages.MalformedError(f"the line is not JSON: {error}") from error
  if not isinstance(value, dict):
    raise messages.MalformedError(
      f"the line must be a JSON object, got {type(value).__name__}")
  return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> Row:
  found = dict(pairs)
  if len(found) < len(pairs):
    counts = collections.Counter(key for key, _ in pairs)
    twice = sorted(key for key, count in counts.items() if count > 1)
    raise messages.MalformedError(f"an object has the keys {twice} twice")
  return found
