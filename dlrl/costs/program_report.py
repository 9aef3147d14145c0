"""Figures of one compiled program: memory, FLOPs, traffic, least time."""

import collections
import dataclasses
import re
import time
from collections.abc import Sequence
from typing import Any

import jax

from dlrl.costs import chips
from dlrl.costs import hlo
from dlrl.costs import memory
from dlrl.costs import time_bound

# The compiler's messages for programs that are too large for a TPU.
_SIZE = r"([\d.]+)([KMGT])"
_TOO_LARGE = (
  re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
  re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"))


@dataclasses.dataclass(frozen=True)
class Report:
  """Figures per device of one run of a program; None: unknown.

  Attributes:
    name: name of the program.
    seconds: compilation time.
    arguments: bytes of the arguments, including state that is on the device but
      not used by the program.
    temporaries: bytes of temporaries.
    output: bytes of outputs that do not reuse an argument's buffer.
    code: bytes of the program itself.
    needed: sum of the above. For a program that is too large to compile, the
      compiler's estimate; the parts are then None.
    limit: memory of a device, bytes.
    flops: FLOPs of matrix products.
    accessed: bytes read from and written to memory.
    collectives: for each kind, their `count` and the `bytes` received, of
      which `alone` without a kernel beside them.
    traffic: what the least time is computed from.
  """

  name: str
  seconds: float
  arguments: int | None
  temporaries: int | None
  output: int | None
  code: int | None
  needed: int
  limit: int | None
  flops: float
  accessed: int | None
  collectives: dict[str, dict[str, float]] | None
  traffic: hlo.Traffic | None = None

  @property
  def fits(self) -> bool | None:
    """Whether the program fits into a device; None if its size is unknown."""
    return None if self.limit is None else self.needed <= self.limit

  def least_seconds(self, chip: chips.Chip) -> dict[str, float]:
    """Terms of the least time, see `time_bound.TERMS`.

    Of a program that is too large to compile, only its products are known.
    """
    if self.traffic is None:
      return {"products": self.product_seconds(chip)}
    return time_bound.seconds(
      self.traffic.kernels, self.traffic.collectives, self.flops, chip)

  def product_seconds(self, chip: chips.Chip) -> float:
    """The time that all products take at the peak of their format."""
    kernels = {} if self.traffic is None else self.traffic.kernels
    return chip.seconds(self.flops, *(
      sum(times * getattr(kernel, kind) for kernel, times in kernels.items())
      for kind in ("int8", "fp8")))


def of(
  name: str, program: Any, args: Sequence[Any], *, flops: float,
  while_trips: Sequence[int], limit: int | None,
) -> tuple[Report, Any]:
  """Compiles a program: `(report, compiled or None if it is too large)`.

  Args:
    name: name in the report.
    program: a function from `jax.jit`.
    args: its arguments, as shapes with shardings.
    flops: FLOPs of one run over all devices.
    while_trips: see `hlo.traffic`.
    limit: memory of a device, bytes; None: unknown.
  """
  devices = jax.sharding.get_abstract_mesh().size
  began = time.monotonic()
  lowered = program.lower(*args)
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    needed, has = _too_large(str(e))
    if needed is None:
      raise
    return Report(
      name, time.monotonic() - began, None, None, None, None, needed, has,
      flops / devices, None, None), None
  seconds = time.monotonic() - began
  stats = compiled.memory_analysis()
  # jit drops arguments that the program does not use, but they occupy the
  # device all the same.
  arguments = max(stats.argument_size_in_bytes, memory.per_device(args))
  # A donated argument and its output share a buffer, counted above.
  output = stats.output_size_in_bytes - stats.alias_size_in_bytes
  code = stats.generated_code_size_in_bytes
  traffic = hlo.traffic(compiled.as_text(), while_trips)
  return Report(
    name, seconds, arguments, stats.temp_size_in_bytes, output, code,
    arguments + stats.temp_size_in_bytes + output + code, limit,
    flops / devices, traffic.accessed, _by_kind(traffic), traffic), compiled


def _by_kind(traffic: hlo.Traffic) -> dict[str, dict[str, float]]:
  found: dict[str, dict[str, float]] = collections.defaultdict(
    lambda: {"count": 0, "bytes": 0.0, "alone": 0.0})
  for one in traffic.collectives:
    found[one.kind]["count"] += one.times
    found[one.kind]["bytes"] += one.moved
    found[one.kind]["alone"] += 0.0 if one.beside else one.moved
  return dict(found)


def _too_large(text: str) -> tuple[int | None, int | None]:
  for pattern in _TOO_LARGE:
    if match := pattern.search(text):
      needed, a, has, b = match.groups()
      return _bytes(needed, a), _bytes(has, b)
  return None, None


def _bytes(number: str, unit: str) -> int:
  return int(float(number) * 2 ** (10 * (1 + "KMGT".index(unit))))
