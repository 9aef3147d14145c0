"""Seconds and FLOPs of a row's step, which `timing` measures.

A claim's costs are stored by the label of the row, as

    {"seconds": {"rollout": [...], "update": [...]},
     "flops": {"rollout": ..., "update": ...}}

with one number of seconds per turn: of all rows of a claim, those of one turn
were taken one after the other.
"""

import statistics
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

PARTS = ("rollout", "update")
Cost = Mapping[str, Mapping[str, Any]]
Costs = Mapping[str, Cost]  # of a claim's rows, by label


def by_turn(cost: Cost, parts: Sequence[str] = PARTS) -> list[float]:
  """Seconds of these parts of a step, in each turn."""
  return [sum(turn) for turn in zip(
    *(cost["seconds"][part] for part in parts), strict=True)]


def seconds(cost: Cost, parts: Sequence[str] = PARTS) -> float:
  """Seconds of these parts of a step: the median turn."""
  return statistics.median(by_turn(cost, parts))


def flops(cost: Cost) -> float:
  """FLOPs of a step; of its update alone if those of passes differ."""
  return float(sum(cost["flops"].values()))


def saved(cost: Cost, other: Cost, parts: Sequence[str] = PARTS) -> list[float]:
  """The share of the other's seconds that is saved, in each turn."""
  return [1 - mine / theirs for mine, theirs in zip(
    by_turn(cost, parts), by_turn(other, parts), strict=True)]
