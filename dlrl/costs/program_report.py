"""Figures of one compiled program: memory, work, traffic, a least time."""

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

# The compiler's words if a program is too large for a TPU.
_SIZE = r"([\d.]+)([KMGT])"
_TOO_LARGE = (
  re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
  re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"))


@dataclasses.dataclass(frozen=True)
class Report:
  """Of one run of a program on one device; None: not known.

  Attributes:
    name: of the program.
    seconds: that the compiler took.
    arguments: bytes, with what of the state the program does not take but which
      lies there all the same.
    temporaries: bytes beside arguments and output.
    output: bytes that do not replace an argument.
    code: bytes of the program itself.
    needed: bytes of all that together. Where the program is too large to be
      compiled, what the compiler says it would take, and the parts are None.
    limit: bytes that a device has.
    flops: of matrix products.
    accessed: bytes read from and written to memory.
    collectives: by kind, how many run, and bytes that arrive from others.
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

  @property
  def fits(self) -> bool | None:
    """Whether a device has that much; None: nothing is known of devices."""
    return None if self.limit is None else self.needed <= self.limit

  def least_seconds(self, chip: chips.Chip) -> dict[str, float]:
    """By what they are spent on, each at its peak and everything else idle."""
    seconds = {"products": self.flops / chip.flops}
    if self.accessed is not None:
      seconds["memory"] = self.accessed / chip.bandwidth
    if self.collectives is not None:
      seconds["links"] = sum(
        c["bytes"] for c in self.collectives.values()) / chip.links
    return seconds


def of(
  name: str, program: Any, args: Sequence[Any], *, flops: float,
  while_trips: Sequence[int], limit: int | None,
) -> tuple[Report, Any]:
  """Compiles a program: `(report, compiled or None if it is too large)`.

  Args:
    name: for the report.
    program: from `jax.jit`.
    args: shapes with shardings.
    flops: of one run, over all devices.
    while_trips: see `hlo.traffic`.
    limit: bytes that a device has; None: not known.
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
  arguments = max(stats.argument_size_in_bytes, memory.per_device(args))
  output = stats.output_size_in_bytes - stats.alias_size_in_bytes
  code = stats.generated_code_size_in_bytes
  traffic = hlo.traffic(compiled.as_text(), while_trips)
  return Report(
    name, seconds, arguments, stats.temp_size_in_bytes, output, code,
    arguments + stats.temp_size_in_bytes + output + code, limit,
    flops / devices, traffic.accessed, _by_kind(traffic)), compiled


def _by_kind(traffic: hlo.Traffic) -> dict[str, dict[str, float]]:
  found: dict[str, dict[str, float]] = collections.defaultdict(
    lambda: {"count": 0, "bytes": 0.0})
  for one in traffic.collectives:
    found[one.kind]["count"] += one.times
    found[one.kind]["bytes"] += one.moved
  return dict(found)


def _too_large(text: str) -> tuple[int | None, int | None]:
  for pattern in _TOO_LARGE:
    if match := pattern.search(text):
      needed, a, has, b = match.groups()
      return _bytes(needed, a), _bytes(has, b)
  return None, None


def _bytes(number: str, unit: str) -> int:
  return int(float(number) * 2 ** (10 * (1 + "KMGT".index(unit))))
