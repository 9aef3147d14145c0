"""From completions to rewards and metrics, on the host."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlrl import tasks
from dlrl.run import setup as setup_lib
from dlrl.runtime import processes


@dataclasses.dataclass(frozen=True)
class Completions:
  """What rewards and metrics are called with, one item each.

  Attributes:
    prompts: as the model was asked.
    texts: the completions.
    columns: of the rows.
  """

  prompts: list[tasks.Text]
  texts: list[str]
  columns: dict[str, list[Any]]


def read(setup: setup_lib.Setup, rows: Sequence[tasks.Example], ids: np.ndarray
         ) -> Completions:
  """Completions `ids` [b, t] of `rows`, equally many of each, contiguous."""
  copies = len(ids) // max(len(rows), 1)
  prompts = [setup.prompt.question(row) for row in rows]
  return Completions(
    [prompt for prompt in prompts for _ in range(copies)],
    [setup.tokenizer.decode(row) for row in ids],
    tasks.columns([row for row in rows for _ in range(copies)]))


def rewards(setup: setup_lib.Setup, done: Completions,
            share: processes.Share) -> tuple[np.ndarray, dict[str, float]]:
  """Weighted sums of the rewards, fp32 [b], and what is logged of them.

  Both are of the whole batch; reward functions are called with this process's
  share of it. A completion one of whose rewards is not known has NaN, which
  advantages leave out: it teaches nothing, and is counted.

  Args:
    setup: of the run.
    done: the share's completions.
    share: of the batch.

  Raises:
    ValueError: a reward is not one number, or None, per completion; names it.
  """
  cfg = setup.cfg.rollout
  found = share.whole({
    name: _numbers(name, function(
      done.prompts, done.texts, **done.columns), len(done.texts)).tolist()
    for name, function in setup.rewards.items() if done.texts})
  total = np.zeros(share.total)
  row: dict[str, float] = {}
  for name, weight in zip(setup.rewards, cfg.reward_weights, strict=True):
    values = np.array(found[name])
    total += weight * values
    row |= {f"reward/{name}": _mean(values), f"reward/{name}_std": _std(values)}
  reward = total.astype(np.float32)
  known = ~np.isnan(reward).reshape(-1, cfg.group_size)
  groups = reward.reshape(known.shape)
  equal = (np.where(known, groups, np.inf).min(1)
           >= np.where(known, groups, -np.inf).max(1))
  return reward, {
    "reward/mean": _mean(reward),
    "reward/std": _std(reward),
    **row,
    "reward/infrastructure_errors": float(np.sum(~known)),
    "update/zero_groups": float(np.mean(equal)),
  }


def metrics(setup: setup_lib.Setup, done: Completions,
            share: processes.Share) -> dict[str, list[float]]:
  """The task's metrics of the completions they are of, and are known of.

  They are of the whole batch, of which `done` is this process's share.
  """
  found = share.whole({
    name: [None if value is None else float(value) for value in values]
    for name, values in (setup.task.metrics(
      done.prompts, done.texts, **done.columns) if done.texts else {}).items()})
  return {name: [value for value in values if value is not None]
          for name, values in found.items()}


def each(task: tasks.Task, rows: Sequence[tasks.Example], done: Completions
         ) -> list[dict[str, float | None]]:
  """The metrics of every completion, under the names of its own task.

  Args:
    task: of the rows, or a mixture of theirs.
    rows: one for each completion.
    done: the completions.
  """
  found: list[dict[str, float | None]] = [{} for _ in rows]
  places: dict[str | None, list[int]] = {}
  for place, row in enumerate(rows):
    places.setdefault(row.get("task"), []).append(place)
  for name, group in places.items():
    scores = task.metrics(
      [done.prompts[i] for i in group], [done.texts[i] for i in group],
      **{k: [v[i] for i in group] for k, v in done.columns.items()})
    for metric, values in scores.items():
      for place, value in zip(group, values, strict=True):
        found[place][metric.removeprefix(f"{name}/")] = value
  return found


def _numbers(name: str, values: Sequence[float | None], count: int
             ) -> np.ndarray:
  """fp64 [count], NaN for None."""
  if len(values) != count:
    raise ValueError(f"the reward {name!r} gave {len(values)} values for "
                     f"{count} completions")
  found = np.full(count, np.nan)
  for i, value in enumerate(values):
    if value is None:
      continue
    try:
      found[i] = float(value)
    except (TypeError, ValueError):
      found[i] = np.nan
    if not np.isfinite(found[i]):
      raise ValueError(f"the reward {name!r} gave {value!r} for a completion; "
                       "it is a finite number, or None where it is not known")
  return found


def _mean(values: np.ndarray) -> float:
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else math.nan


def _std(values: np.ndarray) -> float:
  known = values[~np.isnan(values)]
  return float(known.std()) if known.size else math.nan
