"""Traffic of a compiled program: bytes in memory and between devices.

Computed from the text of the program. A loop's body is in it once, and counts
as often as it runs. XLA's own count (`compiled.cost_analysis()`) counts a body
once and does not include communication.
"""

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all",
         "collective-permute")
_FREE = frozenset({
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast",
  "after-all", "partition-id", "replica-id", "opt-barrier", "while",
  "conditional", "call", "domain"})
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)")
_SHAPE = re.compile(r"([a-z]+\d*)\w*\[([\d,]*)\](\{[^}]*\})?")
_CALLS = re.compile(
  r"(?:calls|to_apply|body|condition|true_computation|false_computation)="
  r"%?([\w.\-]+)|(?:branch_computations|called_computations)=\{([^}]*)\}")
_COUNTING = frozenset({"parameter", "get-tuple-element", "constant", "compare",
                       "fusion", "bitcast", "copy"})
_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")


class Collective(NamedTuple):
  """A collective operation of a program.

  Attributes:
    kind: one of KINDS.
    size: bytes of the whole array on one device that is gathered, summed,
      scattered or exchanged.
    devices: number of devices that take part together.
    times: how often it runs.
  """

  kind: str
  size: int
  devices: int
  times: int

  @property
  def moved(self) -> float:
    """Bytes received by a device in a bandwidth-optimal implementation."""
    passes = 2 if self.kind == "all-reduce" else 1
    share = 1 if self.kind == "collective-permute" else (
      1 - 1 / self.devices)
    return self.times * self.size * passes * share


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Traffic of one run on one device.

  Attributes:
    accessed: bytes that instructions read from and write to memory.
    collectives: collectives of more than one device.
  """

  accessed: int
  collectives: tuple[Collective, ...]


class _Line(NamedTuple):
  root: bool
  name: str
  shape: str
  op: str
  rest: str  # operands, a closing parenthesis, attributes

  @property
  def operands(self) -> list[str]:
    depth = itertools.accumulate(
      (char == "(") - (char == ")") for char in self.rest)
    inside = sum(1 for _ in itertools.takewhile(lambda d: d >= 0, depth))
    return re.findall(r"%([\w.\-]+)", self.rest[:inside])

  @property
  def called(self) -> list[str]:
    found = []
    for one, several in _CALLS.findall(self.rest):
      found += [one] if one else re.findall(r"[\w.\-]+", several)
    return found


def traffic(text: str, while_trips: Sequence[int] = ()) -> Traffic:
  """The traffic of a program.

  Args:
    text: the compiled module, `compiled.as_text()`.
    while_trips: trip counts of loops that depend on data, by nesting depth,
      outermost first. The text contains those of other loops.

  Raises:
    ValueError: `while_trips` is too short.
  """
  module = _Module(text)
  accessed, found = module.cost(module.entry, tuple(while_trips))
  return Traffic(accessed, tuple(c for c in found.values() if c.devices > 1))


class _Module:
  """The computations of a module by name, and their traffic."""

  def __init__(self, text: str) -> None:
    self.lines: dict[str, list[_Line]] = {}
    self.entry = ""
    text = re.sub(r"/\*index=\d+\*/", "", text)
    header = re.search(r"num_partitions=(\d+)", text)
    self.partitions = int(header[1]) if header else 1
    name = ""
    for row in text.splitlines():
      if row.endswith("{") and not row.startswith(" "):
        name = row.removeprefix("ENTRY ").split()[0].lstrip("%")
        self.entry = name if row.startswith("ENTRY") else self.entry
        self.lines[name] = []
      elif name and (match := _LINE.match(row)):
        self.lines[name].append(_Line(bool(match[1]), *match.groups()[1:]))
    # Where collectives start that TPUs carry on in other fusions, perhaps in a
    # loop in between.
    self.starts: dict[str, set[str]] = collections.defaultdict(set)
    for name, lines in self.lines.items():
      if any('"AsyncCollectiveStart"' in line.rest for line in lines):
        for channel in re.findall(
            r"channel_id=\d+", " ".join(line.rest for line in lines)):
          self.starts[channel].add(name)

  @functools.cache  # noqa: B019  (lives as long as the module)
  def shapes(self, computation: str) -> dict[str, str]:
    """Shapes of all values of a computation, by name."""
    return {line.name: line.shape for line in self.lines[computation]}

  @functools.cache  # noqa: B019
  def cost(self, computation: str, trips: tuple[int, ...]
           ) -> tuple[int, dict[str, Collective]]:
    """Bytes accessed, and collectives by unique keys."""
    accessed, found = 0, dict[str, Collective]()
    for line in self.lines[computation]:
      if line.op == "while":
        more, inner = self._loop(line, trips)
        found |= {f"{line.name}/{k}": c for k, c in inner.items()}
      elif line.op == "conditional":
        more, inner = max((self.cost(c, trips) for c in line.called),
                          key=lambda cost: cost[0])
        found |= {f"{line.name}/{k}": c for k, c in inner.items()}
      else:
        more = self._accessed(line, computation)
        if line.op == "call":
          more += sum(self.cost(c, trips)[0] for c in line.called)
        for key, one in self._collectives(line, computation, trips):
          found.setdefault(key, one)
      accessed += more
    return accessed, found

  def _loop(self, line: _Line, trips: tuple[int, ...]
            ) -> tuple[int, dict[str, Collective]]:
    condition, body = _LOOP.findall(line.rest)[0]
    times = self._trips(line, condition)
    if times is None:
      if not trips:
        raise ValueError(
          f"hlo.traffic: the trip count of {line.name} depends on data; pass "
          "while_trips")
      times, trips = trips[0], trips[1:]
    total, found = 0, dict[str, Collective]()
    for name, runs in ((body, times), (condition, times + 1)):
      accessed, inner = self.cost(name, trips)
      total += runs * accessed
      found |= {f"{name}/{k}": c._replace(times=c.times * runs)
                for k, c in inner.items()}
    return total, found

  def _trips(self, line: _Line, condition: str) -> int | None:
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line.rest):
      return int(known[1])
    # Only loops whose counter starts at 0, such as JAX's scans.
    text = list(self._within(condition))
    limits = [x.rest.partition(")")[0] for x in text
              if x.op == "constant" and re.match("[su](32|64)", x.shape)]
    compared = [x for x in text if x.op == "compare"]
    if (len(limits) == len(compared) == 1 and {x.op for x in text} <= _COUNTING
        and "direction=LT" in compared[0].rest):
      return int(limits[0])
    return None

  def _within(self, computation: str) -> Iterator[_Line]:
    for line in self.lines[computation]:
      yield line
      for name in line.called:
        yield from self._within(name)

  def _collectives(self, line: _Line, computation: str, trips: tuple[int, ...]
                   ) -> Iterator[tuple[str, Collective]]:
    kind = line.op.removesuffix("-start")
    if kind in KINDS:
      size = _size(line.shape, anywhere=True)
      given = sum(_size(self.shapes(computation)[x], anywhere=True)
                  for x in line.operands)
      if kind == "reduce-scatter":
        size = given
      elif kind != line.op and kind != "all-reduce":
        size -= given  # the result of a -start also holds the operands
      channel = re.search(r"channel_id=(\d+)", line.rest)
      if channel and computation not in self.starts.get(
          channel[0], (computation,)):
        return
      yield (channel[0] if channel else line.name), Collective(
        kind, size, _group(line.rest, self.partitions), 1)
    elif line.op not in ("reduce", "sort", "scatter", "map"):
      for name in line.called:
        yield from self.cost(name, trips)[1].items()

  def _accessed(self, line: _Line, computation: str) -> int:
    shapes = self.shapes(computation)
    if line.op in _FREE or line.op.endswith(("-done", "-update")):
      return 0
    if line.op == "copy-start":  # (to, from, context)
      return sum(_parts(line.shape)[:2])
    if line.op == "slice-start":  # ((from), to, context)
      return (_parts(line.shape)[1]
              + _parts(line.shape, anywhere=True)[1])
    if line.op == "dynamic-slice":
      return 2 * _size(line.shape)
    if line.op == "dynamic-update-slice":
      return 2 * _size(shapes[line.operands[1]])
    if line.op == "gather":
      return 2 * _size(line.shape) + _size(shapes[line.operands[1]])
    if line.op == "fusion":
      return self._of_fusion(line, shapes)
    return _size(line.shape) + sum(
      _size(shapes[x]) for x in line.operands if x in shapes)

  def _of_fusion(self, line: _Line, shapes: dict[str, str]) -> int:
    """Bytes that a fusion reads of its operands and writes."""
    total = sum(
      self._read(line.called[0], number, _size(shapes[name]))
      for number, name in enumerate(line.operands))
    inner, _ = self._fused(line.called[0])
    inside = self.shapes(line.called[0])
    root = inner[_seen(next(
      one.name for one in inner.values() if one.root), inner)]
    written, sizes = [root.name], [_size(line.shape)]
    if root.op == "tuple":
      written, sizes = root.operands, _parts(line.shape)
    for name, whole in zip(written, sizes, strict=True):
      one = inner[_seen(name, inner)]
      if one.op == "dynamic-update-slice":
        whole = min(whole, _size(inside[one.operands[1]]))
      # Values passed through or still being communicated are not written.
      on_its_way = (one.op == "parameter" or one.op in KINDS
                    or '"AsyncCollectiveStart"' in one.rest)
      total += 0 if on_its_way else whole
    return total

  @functools.cache  # noqa: B019
  def _fused(self, computation: str) -> tuple[
      dict[str, _Line], dict[str, list[tuple[int, _Line]]]]:
    """The instructions of a fusion by name, and the uses of each value."""
    inner = {one.name: one for one in self.lines[computation]}
    users = collections.defaultdict(list)
    for one in inner.values():
      if one.op != "bitcast":
        for position, name in enumerate(one.operands):
          users[_seen(name, inner)].append((position, one))
    return inner, users

  def _read(self, computation: str, number: int, whole: int) -> int:
    """Bytes that a fusion reads of one operand, which has `whole`."""
    inner, users = self._fused(computation)
    shapes = self.shapes(computation)
    name = next(one.name for one in inner.values() if one.op == "parameter"
                and int(one.rest.partition(")")[0]) == number)
    total = 0
    for position, user in users[name]:
      part = _part(position, user, shapes)
      if user.op == "fusion":  # one inside of another one
        part = self._read(user.called[0], position, whole)
      total += whole if part is None else part
    return min(whole, total)


def _seen(name: str, inner: dict[str, _Line]) -> str:
  """The value that `name` is a bitcast of, or `name` itself."""
  while inner[name].op == "bitcast":
    name = inner[name].operands[0]
  return name


def _part(position: int, user: _Line, shapes: dict[str, str]) -> int | None:
  """Bytes that an instruction reads of an operand; None: all of it."""
  if user.op == "dynamic-slice" and position == 0:
    return _size(user.shape)
  if user.op == "dynamic-update-slice" and position == 0:
    return 0  # in place
  if user.op in ("tuple", *KINDS) or '"AsyncCollective' in user.rest:
    return 0  # passed through; communication counts where it ends
  return None


def _size(shape: str, *, anywhere: bool = False) -> int:
  """Bytes of an array, or of all arrays in a tuple; see `_parts`."""
  return sum(_parts(shape, anywhere=anywhere))


def _parts(shape: str, *, anywhere: bool = False) -> list[int]:
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


def _group(attributes: str, partitions: int) -> int:
  """Number of devices that take part together."""
  if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", attributes):
    return int(match[2])
  if match := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
    return len(match[1].split(","))
  if match := re.search(
      r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
    return math.prod(int(sizes[a]) for a in re.findall(r"'(\w+)'", match[2]))
  return partitions
