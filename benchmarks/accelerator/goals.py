"""Sets goals for an accelerator and compares measurements with them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.accelerator import blocks
from benchmarks.accelerator import rollouts
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import torch_side
from benchmarks.accelerator import updates
from dlrl.costs import chips

FEW, SOME, MANY = map(updates.name_of, updates.DRAWS)
MFU, GROWTH, EXACT_SPEEDUP, UPDATE_SPEEDUP = 0.5, 1.02, 1.5, 2.0
SDAR, SDAR_ON = 3700.0, "NVIDIA H200"  # tokens/s, published for 128 rows


@dataclasses.dataclass(frozen=True)
class Goal:
  """A figure that is wanted.

  Attributes:
    what: is measured.
    wanted: the bound.
    at_least: whether it is a lower bound.
    found: None if a stage that it needs has no result.
  """

  what: str
  wanted: float
  at_least: bool
  found: float | None

  @property
  def met(self) -> bool | None:
    """None if it was not measured."""
    if self.found is None:
      return None
    return (self.found >= self.wanted if self.at_least
            else self.found <= self.wanted)


def of(rows: Sequence[rows_lib.Row]) -> list[Goal]:
  """The goals, with what the rows say of them."""
  by_name = {row["what"]: row for row in rows}

  def value(what: str, key: str) -> Any:
    return by_name.get(what, {}).get(key)

  bandwidth = _bandwidth(value("device", "kind"))
  return [
    Goal("MFU of the update with 16 draws (set for an H100)", MFU, True,
         value(SOME, "mfu")),
    Goal("memory of the update with 64 draws, to that with 2", GROWTH, False,
         _ratio(value(MANY, "peak_gib"), value(FEW, "peak_gib"))),
    Goal("exact rollouts per second, to PyTorch's", EXACT_SPEEDUP, True, _ratio(
      _per_device(value, rollouts.name_of(rollouts.EXACT), "tokens_per_s"),
      value(torch_side.SAMPLER, "tokens_per_s"))),
    Goal("updates of adapters per second, to PyTorch's", UPDATE_SPEEDUP, True,
         _ratio(_draws_per_s(value), _torch_draws_per_s(value))),
    Goal(f"tokens per second of SDAR-4B ({SDAR:,.0f} on an H200, by bandwidth)",
         SDAR * bandwidth, True, value(blocks.NAME, "tokens_per_s"))]


def _bandwidth(kind: str | None) -> float:
  """The device's, to that of the one that the goal is set for."""
  chip = chips.find(kind or "")
  return chip.bandwidth / chips.CHIPS[SDAR_ON].bandwidth if chip else 1.0


def _ratio(a: float | None, b: float | None) -> float | None:
  return a / b if a and b else None


def _per_device(value: Any, what: str, key: str) -> float | None:
  return _ratio(value(what, key), value(what, "devices"))


def _draws_per_s(value: Any) -> float | None:
  """Draws of rows per second and device; None unless adapters are trained."""
  if value(SOME, "trained") != "adapters":
    return None  # PyTorch's update is of adapters
  each = value(SOME, "rows") * value(SOME, "draws") / value(SOME, "devices")
  return each / value(SOME, "seconds")


def _torch_draws_per_s(value: Any) -> float | None:
  return _ratio(
    value(torch_side.UPDATE, "rows"), value(torch_side.UPDATE, "seconds"))
