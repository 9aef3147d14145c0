"""Files of rows with random access: JSON Lines and Parquet.

Neither keeps more in memory than a few of its parts. Values are Python's own.
"""

import bisect
import contextlib
import functools
import json
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import pyarrow as pa
from pyarrow import parquet

from dlrl import strict
from dlrl.tasks.user_files import messages

Row = dict[str, Any]
# Its line or number, counted from 1; its place; and what reads it.
Found = tuple[int, int, Callable[[], Row]]

_ROW_GROUPS = 4  # of a Parquet file, that stay in memory


class Table(Protocol):
  """A file of rows."""

  def scan(self) -> Iterator[Found]:
    """All rows in order; reading one may raise `Problem`."""

  def row(self, place: int) -> Row:
    """The row at a place."""


class JsonLines:
  """One JSON object on each line; a place is the line's first byte."""

  def __init__(self, path: str):
    self._path = path

  def scan(self) -> Iterator[Found]:
    """A line of white space alone is no row."""
    place = 0
    with open(self._path, "rb") as file:
      for number, line in enumerate(file, 1):
        if line.strip():
          yield number, place, functools.partial(_object, line)
        place += len(line)

  def row(self, place: int) -> Row:
    """The object on the line that starts at `place`."""
    with open(self._path, "rb") as file:
      file.seek(place)
      return _object(file.readline())


class Parquet:
  """A Parquet file; a place is the row's number, counted from 0."""

  def __init__(self, path: str):
    self._file = parquet.ParquetFile(path)
    self._starts = [0]  # of row groups
    for group in range(self._file.num_row_groups):
      rows = self._file.metadata.row_group(group).num_rows
      self._starts.append(self._starts[-1] + rows)
    self._group = functools.lru_cache(_ROW_GROUPS)(self._file.read_row_group)

  def scan(self) -> Iterator[Found]:
    """Checks each row group as a whole; raises `pa.ArrowException`."""
    for group, start in enumerate(self._starts[:-1]):
      table = self._file.read_row_group(group)
      table.validate(full=True)
      for i in range(table.num_rows):
        yield start + i + 1, start + i, functools.partial(_python, table, i)

  def row(self, place: int) -> Row:
    """Reads the row group around it, unless it was among the last."""
    group = bisect.bisect_right(self._starts, place) - 1
    return _python(self._group(group), place - self._starts[group])


FORMATS: Mapping[str, Callable[[str], Table]] = {
  ".jsonl": JsonLines, ".parquet": Parquet}


def open_file(path: str, field: str) -> Table:
  """The table in a file, by the end of its name.

  Raises:
    strict.ConfigError: it is not a table, or cannot be read; names `field`.
  """
  suffix = os.path.splitext(path)[1]
  strict.require(suffix in FORMATS, field, path,
                 f"is none of {', '.join(FORMATS)}")
  with _readable(path, field):
    return FORMATS[suffix](path)


def scan(table: Table, path: str, field: str) -> Iterator[Found]:
  """Of the table in a file.

  Raises:
    strict.ConfigError: the file is damaged; names `field`.
  """
  with _readable(path, field):
    yield from table.scan()


@contextlib.contextmanager
def _readable(path: str, field: str) -> Iterator[None]:
  try:
    yield
  except (OSError, pa.ArrowException) as error:
    raise strict.ConfigError(field, path, f"cannot be read: {error}") from error


def _python(table: pa.Table, i: int) -> Row:
  return {name: column[i].as_py() for name, column in zip(
    table.column_names, table.columns, strict=True)}


def _object(line: bytes) -> Row:
  try:
    value = json.loads(line, object_pairs_hook=_once)
  except RecursionError as error:
    raise messages.Problem("is nested too deeply") from error
  except ValueError as error:  # JSON's, UTF-8's, and that of long integers
    raise messages.Problem(f"is no JSON: {error}") from error
  if not isinstance(value, dict):
    raise messages.Problem("is no JSON object; write one on each line")
  return value


def _once(pairs: Sequence[tuple[str, Any]]) -> Row:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise messages.Problem("an object has a key twice")
  return found
