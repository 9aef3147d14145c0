"""The text of a compiled program: computations, instructions, shapes."""

import itertools
import math
import re
from typing import NamedTuple

_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
_SHAPE = re.compile(r"([a-z]+\d*)\w*\[([\d,]*)\](\{[^}]*\})?")
_CALLS = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)="
  r"%?([\w.\-]+)|(?:branch_computations|called_computations)=\{([^}]*)\}")


class Line(NamedTuple):
  """An instruction: `%name = shape op(rest`.

  Attributes:
    root: whether it is the result of its computation.
    name: unique in its computation.
    shape: of an array, or of a tuple of arrays.
    op: the operation.
    rest: operands, a closing parenthesis, attributes.
  """

  root: bool
  name: str
  shape: str
  op: str
  rest: str

  @property
  def operands(self) -> list[str]:
    """Names of the operands."""
    depth = itertools.accumulate(
      (char == "(") - (char == ")") for char in self.rest)
    inside = sum(1 for _ in itertools.takewhile(lambda d: d >= 0, depth))
    return re.findall(r"%([\w.\-]+)", self.rest[:inside])

  @property
  def called(self) -> list[str]:
    """Names of the computations that it runs."""
    found = []
    for one, several in _CALLS.findall(self.rest):
      found += [one] if one else re.findall(r"[\w.\-]+", several)
    return found


def computations(text: str) -> tuple[dict[str, list[Line]], str]:
  """The instructions of each computation, and the name of the first to run."""
  found: dict[str, list[Line]] = {}
  entry = name = ""
  for row in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
    if row.endswith("{") and not row.startswith(" "):
      name = row.removeprefix("ENTRY ").split()[0].lstrip("%")
      entry = name if row.startswith("ENTRY") else entry
      found[name] = []
    elif name and (match := _LINE.match(row)):
      found[name].append(Line(bool(match[1]), *match.groups()[1:]))
  return found, entry


def dimensions(shape: str) -> list[int]:
  """The sizes of an array, or of the first one of a tuple."""
  match = _SHAPE.search(shape)
  return [int(n) for n in match[2].split(",") if n] if match else []


def size(shape: str, *, anywhere: bool = False) -> int:
  """Bytes of an array, or of all arrays in a tuple; see `parts`."""
  return sum(parts(shape, anywhere=anywhere))


def parts(shape: str, *, anywhere: bool = False) -> list[int]:
  """Bytes in main memory of an array, or of each array in a tuple.

  With `anywhere`, arrays in the core memories of a TPU, S(1) and above, count.
  """
  return [
    math.prod(int(n) for n in dims.split(",") if n) * _bits(dtype) // 8
    if anywhere or not re.search(r"S\([1-9]\)", layout) else 0
    for dtype, dims, layout in _SHAPE.findall(shape)]


def _bits(dtype: str) -> int:
  digits = re.search(r"\d+", dtype)
  return int(digits[0]) if digits else 8 * (dtype == "pred")
