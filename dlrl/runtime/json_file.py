"""JSON files of a checkpoint: every value is checked before it is used.

They are downloads, so that a value may be of any type or size, or missing.
"""

import collections
import json
import pathlib
import reprlib
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

Refuse = Callable[[str], Exception]  # makes the error from what is wrong

_MAX_BYTES = 64 << 20
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


def shown(value: object) -> str:
  """`repr`, shortened: for messages about values of any size."""
  return _REPR.repr(value)


def text(path: pathlib.Path) -> str:
  """Returns what a file holds, in UTF-8 with or without a byte order mark.

  Raises:
    OSError, ValueError: the file cannot be read, is huge, or is not UTF-8.
  """
  # Opening a pipe would wait for a writer.
  if path.exists() and not path.is_file():
    raise ValueError("not a file")
  if path.stat().st_size > _MAX_BYTES:
    raise ValueError(f"more than {_MAX_BYTES >> 20} MiB")
  return path.read_text(encoding="utf-8-sig")


def read(path: pathlib.Path, refuse: Refuse) -> dict[str, Any]:
  """Reads the JSON object that a file holds.

  Args:
    path: the file; UTF-8 with or without a byte order mark.
    refuse: makes the error to raise.

  Returns:
    The object.

  Raises:
    What `refuse` makes: the file cannot be read, or holds something else.
  """
  try:
    value = json.loads(text(path), object_pairs_hook=_unique)
  except (OSError, ValueError) as e:
    raise refuse(f"cannot read {path} ({e}); name the directory of a "
                 "downloaded checkpoint") from e
  except RecursionError as e:
    raise refuse(f"cannot read {path} (nested too deeply); download it "
                 "again") from e
  if not isinstance(value, dict):
    raise refuse(f"{path} must hold a JSON object, got {shown(value)}; "
                 "download it again")
  return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    counts = collections.Counter(name for name, _ in pairs)
    twice = [name for name, count in counts.items() if count > 1]
    raise ValueError(f"the keys {shown(twice)} are there twice")
  return found


class Fields:
  """A JSON object that is read field by field; notes all that is wrong.

  A field that is wrong is read as some value of the right type. `finish` must
  be called before what was read is used.

  Attributes:
    values: the object.
    problems: what is wrong, in the order of reading.
  """

  def __init__(self, file: str, values: Mapping[str, Any]) -> None:
    self._file = file
    self.values = values
    self.problems: list[str] = []

  def require(self, ok: bool, problem: str) -> None:
    """Notes a problem unless `ok`."""
    if not ok:
      self.problems.append(problem)

  def finish(self, refuse: Refuse) -> None:
    """Raises one error with all problems, if there are any."""
    if self.problems:
      raise refuse("; ".join(self.problems))

  def integer(self, name: str, low: int, high: int,
              null: int | None = None) -> int:
    """Reads an integer in `low`..`high`; `null` stands for JSON's null."""
    value = self.values.get(name)
    if value is None and name in self.values and null is not None:
      return null
    # Not isinstance: True is an int as well.
    if type(value) is int and low <= value <= high:
      return value
    self._wrong(name, f"an integer in {low}..{high}")
    return low

  def number(self, name: str, low: float, high: float) -> float:
    """Reads a number in `low`..`high`, which excludes NaN."""
    value = self.values.get(name)
    if (isinstance(value, int | float) and not isinstance(value, bool)
        and low <= value <= high):
      return float(value)
    self._wrong(name, f"a number in {low:g}..{high:g}")
    return low

  def boolean(self, name: str) -> bool:
    """Reads a boolean."""
    value = self.values.get(name)
    if isinstance(value, bool):
      return value
    self._wrong(name, "true or false")
    return False

  def text(self, name: str) -> str:
    """Reads a string that is valid Unicode."""
    value = self.values.get(name)
    if is_text(value):
      return str(value)
    self._wrong(name, "a text")
    return ""

  def one_of(self, name: str, allowed: Sequence[Any]) -> None:
    """Checks that a field, if it is there, has one of the `allowed` values."""
    value = self.values.get(name, allowed[0])
    self.require(
      any(same(value, other) for other in allowed),
      f"{name} is {shown(value)} in its {self._file}; only {allowed[0]!r} is "
      "supported")

  def _wrong(self, name: str, wanted: str) -> None:
    self.problems.append(
      f"{name} is {shown(self.values[name])} in its {self._file}; must be "
      f"{wanted}" if name in self.values
      else f"its {self._file} has no field {name!r}")


def is_text(value: object) -> bool:
  """Whether a value is a string without half of a surrogate pair."""
  return isinstance(value, str) and not any(
    "\ud800" <= c <= "\udfff" for c in value)


def same(a: object, b: object) -> bool:
  """Whether two JSON values are equal; true and 1 are not, 1 and 1.0 are."""
  return isinstance(a, bool) == isinstance(b, bool) and a == b
