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
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

from dlrl.costs import flops
from dlrl.costs import hlo_loops
from dlrl.costs import hlo_products
from dlrl.costs import hlo_text

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all",
         "collective-permute")
_FREE = frozenset({
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast",
  "after-all", "partition-id", "replica-id", "opt-barrier", "while",
  "conditional", "call", "domain"})


class Collective(NamedTuple):
  """A collective operation of a program.

  Attributes:
    kind: one of KINDS.
    size: bytes of the whole array on one device that is gathered, summed,
      scattered or exchanged.
    devices: number of devices that take part together.
    times: how often it runs.
    beside: whether kernels run between its start and its end.
  """

  kind: str
  size: int
  devices: int
  times: int
  beside: bool

  @property
  def moved(self) -> float:
    """Bytes received by a device in a bandwidth-optimal implementation."""
    passes = 2 if self.kind == "all-reduce" else 1
    share = 1 if self.kind == "collective-permute" else (
      1 - 1 / self.devices)
    return self.times * self.size * passes * share


class Kernel(NamedTuple):
  """The work of one instruction; a device runs one kernel at a time.

  Attributes:
    flops: of its matrix products, as far as the text tells.
    accessed: bytes that it reads from and writes to memory.
    opaque: whether it may compute products of which the text says nothing.
    int8: those of `flops` that multiply int8 values.
    fp8: those that multiply fp8 values.
  """

  flops: int
  accessed: int
  opaque: bool
  int8: int = 0
  fp8: int = 0


@dataclasses.dataclass(frozen=True)
class Traffic:
  """Traffic of one run on one device.

  Attributes:
    kernels: how often each kind of kernel runs.
    collectives: collectives of more than one device.
  """

  kernels: Mapping[Kernel, int]
  collectives: tuple[Collective, ...]

  @property
  def accessed(self) -> int:
    """Bytes that all kernels read from and write to memory."""
    return _accessed(self.kernels)


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
  kernels, found = module.cost(module.entry, tuple(while_trips))
  return Traffic(kernels, tuple(c for c in found.values() if c.devices > 1))


_Cost = tuple[collections.Counter[Kernel], dict[str, Collective]]


class _Module:
  """The computations of a module by name, and their traffic."""

  def __init__(self, text: str) -> None:
    self.lines, self.entry = hlo_text.computations(text)
    header = re.search(r"num_partitions=(\d+)", text)
    self.partitions = int(header[1]) if header else 1
    # Where collectives start that TPUs carry on in other fusions, perhaps in a
    # loop in between.
    self.starts: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for name, lines in self.lines.items():
      if any('"AsyncCollectiveStart"' in line.rest for line in lines):
        for line in lines:
          self.starts[_chain(line)].add(name)

  @functools.cache  # noqa: B019  (lives as long as the module)
  def shapes(self, computation: str) -> dict[str, str]:
    """Shapes of all values of a computation, by name."""
    return {line.name: line.shape for line in self.lines[computation]}

  @functools.cache  # noqa: B019
  def cost(self, computation: str, trips: tuple[int, ...]) -> _Cost:
    """How often kernels run, and collectives by unique keys."""
    kernels, found = collections.Counter[Kernel](), dict[str, Collective]()
    for line in self.lines[computation]:
      if line.op == "while":
        more, inner = self._loop(line, computation, trips)
        found |= {f"{line.name}/{k}": c for k, c in inner.items()}
      elif line.op == "conditional":
        more, inner = max((self.cost(c, trips) for c in line.called),
                          key=lambda cost: _accessed(cost[0]))
        found |= {f"{line.name}/{k}": c for k, c in inner.items()}
      else:
        more = self._kernel(line, computation)
        if line.op == "call":
          for name in line.called:
            more = more + self.cost(name, trips)[0]
        for key, one in self._collectives(line, computation, trips):
          found.setdefault(key, one)
      kernels.update(more)
    return kernels, found

  def _loop(self, line: hlo_text.Line, computation: str,
            trips: tuple[int, ...]) -> _Cost:
    condition, body = hlo_loops.parts(line)
    if flops.RARELY in line.rest:
      return collections.Counter(), {}
    times = hlo_loops.trips(self.lines, computation, line)
    if times is None and flops.ONCE in line.rest:
      times = 1
    if times is None:
      if not trips:
        raise ValueError(
          f"hlo.traffic: the trip count of {line.name} depends on data; pass "
          "while_trips")
      times, trips = trips[0], trips[1:]
    total, found = collections.Counter[Kernel](), dict[str, Collective]()
    for name, runs in ((body, times), (condition, times + 1)):
      kernels, inner = self.cost(name, trips)
      total.update({k: runs * n for k, n in kernels.items()})
      found |= {f"{name}/{k}": c._replace(times=c.times * runs)
                for k, c in inner.items()}
    return total, found

  def _kernel(self, line: hlo_text.Line, computation: str
              ) -> collections.Counter[Kernel]:
    one = Kernel(0, self._accessed(line, computation), False)
    for part in (() if line.op in _FREE else
                 self._products(line, computation)):
      one = one._replace(
        flops=one.flops + part.flops, opaque=one.opaque or part.opaque,
        int8=one.int8 + part.int8, fp8=one.fp8 + part.fp8)
    return collections.Counter({one: 1} if any(one) else {})

  def _products(self, line: hlo_text.Line, computation: str
                ) -> Iterator[Kernel]:
    """The products of an instruction and of all that it runs."""
    shapes = self.shapes(computation)
    if flops := hlo_products.flops(line, shapes):
      int8, fp8 = hlo_products.formats(line, shapes)
      yield Kernel(flops, 0, False, flops * int8, flops * fp8)
    elif hlo_products.opaque(line):
      yield Kernel(0, 0, True)
    # Other instructions call only functions such as sums, without products.
    for name in line.called if line.op in ("fusion", "async-start") else ():
      for inner in self.lines[name]:
        yield from self._products(inner, name)

  def _collectives(
    self, line: hlo_text.Line, computation: str, trips: tuple[int, ...]
  ) -> Iterator[tuple[str, Collective]]:
    kind = line.op.removesuffix("-start")
    if kind in KINDS:
      size = hlo_text.size(line.shape, anywhere=True)
      given = sum(hlo_text.size(self.shapes(computation)[x], anywhere=True)
                  for x in line.operands)
      if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        # TPUs write a reduce-scatter as such a fusion.
        kind, size = "reduce-scatter", given
      elif kind == "reduce-scatter":
        size = given
      elif kind != line.op and kind != "all-reduce":
        size -= given  # the result of a -start also holds the operands
      started = self.starts.get(_chain(line))
      if started and computation not in started:
        return
      yield line.name, Collective(
        kind, size, _group(line.rest, self.partitions), 1,
        bool(started) or self._beside(line, computation))
    elif line.op not in ("reduce", "sort", "scatter", "map"):
      beside = self._beside(line, computation)
      for name in line.called:
        for key, one in self.cost(name, trips)[1].items():
          yield key, one._replace(beside=one.beside or beside)

  def _beside(self, start: hlo_text.Line, computation: str) -> bool:
    """Whether kernels run between a start and its end."""
    if not start.op.endswith("-start") or '"is_sync":true' in start.rest:
      return False
    lines = self.lines[computation]
    for line in lines[lines.index(start) + 1:]:
      if line.op.endswith("-done") and start.name in line.operands:
        return False
      if line.op == "while" or (
          line.op.removesuffix("-start") not in KINDS
          and self._accessed(line, computation)):
        return True
    return True

  def _accessed(self, line: hlo_text.Line, computation: str) -> int:
    shapes = self.shapes(computation)
    if line.op in _FREE or line.op.endswith(("-done", "-update")):
      return 0
    if line.op == "copy-start":  # (to, from, context)
      return sum(hlo_text.parts(line.shape)[:2])
    if line.op == "slice-start":  # ((from), to, context)
      return (hlo_text.parts(line.shape)[1]
              + hlo_text.parts(line.shape, anywhere=True)[1])
    if line.op == "dynamic-slice":
      return 2 * hlo_text.size(line.shape)
    if line.op == "dynamic-update-slice":
      return 2 * hlo_text.size(shapes[line.operands[1]])
    if line.op == "gather":
      return 2 * hlo_text.size(line.shape) + hlo_text.size(
        shapes[line.operands[1]])
    if line.op == "fusion":
      return self._of_fusion(line, shapes)
    return hlo_text.size(line.shape) + sum(
      hlo_text.size(shapes[x]) for x in line.operands if x in shapes)

  def _of_fusion(self, line: hlo_text.Line, shapes: dict[str, str]) -> int:
    """Bytes that a fusion reads of its operands and writes."""
    total = sum(
      self._read(line.called[0], number, hlo_text.size(shapes[name]))
      for number, name in enumerate(line.operands))
    inner, _ = self._fused(line.called[0])
    inside = self.shapes(line.called[0])
    root = inner[_seen(next(
      one.name for one in inner.values() if one.root), inner)]
    written, sizes = [root.name], [hlo_text.size(line.shape)]
    if root.op == "tuple":
      # A result of the tuple may be a tuple itself, such as of a maximum with
      # its index.
      parts = iter(hlo_text.parts(line.shape))
      written, sizes = root.operands, [
        sum(itertools.islice(parts, len(hlo_text.parts(inside[name]))))
        for name in root.operands]
    for name, whole in zip(written, sizes, strict=True):
      one = inner[_seen(name, inner)]
      if one.op == "dynamic-update-slice":
        whole = min(whole, hlo_text.size(inside[one.operands[1]]))
      # Values passed through or still being communicated are not written.
      on_its_way = (one.op == "parameter" or one.op in KINDS
                    or '"AsyncCollectiveStart"' in one.rest)
      total += 0 if on_its_way else whole
    return total

  @functools.cache  # noqa: B019
  def _fused(self, computation: str) -> tuple[
      dict[str, hlo_text.Line], dict[str, list[tuple[int, hlo_text.Line]]]]:
    """The instructions of a fusion by name, and the uses of each value."""
    inner = {one.name: one for one in self.lines[computation]}
    users = collections.defaultdict(list)
    for one in inner.values():
      if not _same(one):
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


def _chain(line: hlo_text.Line) -> tuple[str, str]:
  """The key that the parts of an asynchronous collective share.

  Not its channel alone, which all collectives that JAX itself asks for share.
  """
  channel, chain = (re.search(pattern, line.rest) for pattern in (
    r"channel_id=(\d+)", r'chain_id="(\d+)"'))
  return channel[1] if channel else line.name, chain[1] if chain else ""


def _seen(name: str, inner: dict[str, hlo_text.Line]) -> str:
  """The value that `name` is another view of, or `name` itself."""
  while _same(inner[name]):
    name = inner[name].operands[0]
  return name


def _same(line: hlo_text.Line) -> bool:
  """Whether a part of a fusion moves nothing.

  Besides a bitcast that is a fusion in the place of its operand: TPUs read int8
  values that way in other tiles than those in which memory has them.
  """
  return line.op == "bitcast" or (
    line.op == "fusion" and "output_to_operand_aliasing={{}: (0, {})}"
    in line.rest)


def _part(
  position: int, user: hlo_text.Line, shapes: dict[str, str]
) -> int | None:
  """Bytes that an instruction reads of an operand; None: all of it."""
  if user.op == "dynamic-slice" and position == 0:
    return hlo_text.size(user.shape)
  if user.op == "dynamic-update-slice" and position == 0:
    return 0  # in place
  if user.op in ("tuple", *KINDS) or '"AsyncCollective' in user.rest:
    return 0  # passed through; communication counts where it ends
  return None


def _accessed(kernels: Mapping[Kernel, int]) -> int:
  return sum(k.accessed * times for k, times in kernels.items())


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
