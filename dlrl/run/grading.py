"""From completions to rewards and metrics, on the host."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dlrl import config
from dlrl import tasks
from dlrl import update
from dlrl.run import setup as setup_lib
from dlrl.runtime import processes
from dlrl.tasks import reward_calls


@dataclasses.dataclass(frozen=True)
class Answers:
  """Completions as graders take them, one entry of each list per completion.

  Attributes:
    prompts: what the model was asked.
    texts: the completions.
    columns: the examples' columns.
  """

  prompts: list[tasks.Text]
  texts: list[str]
  columns: dict[str, list[Any]]


@dataclasses.dataclass(frozen=True)
class Rewards:
  """Rewards of a whole batch; a completion has none that is not known.

  Attributes:
    total: [b] fp32, weighted sums, NaN where not known.
    parts: [b, k] fp32, the k rewards without weights, NaN where the sum is.
    teaches: [g] bool, the groups whose advantages are not all zero.
  """

  total: np.ndarray
  parts: np.ndarray
  teaches: np.ndarray

  def learned(self, cfg: config.RolloutConfig) -> tuple[np.ndarray, ...]:
    """The rewards that the update takes, see `update.reward_shapes`."""
    return ((self.total, self.parts) if cfg.normalize == "each"
            else (self.total,))


def wait(batch: update.Batch
         ) -> tuple[processes.Share, np.ndarray, np.ndarray]:
  """Waits for a rollout: this process's share, its tokens and their speed.

  Returns:
    The share of m rows; completions [m, t] int32; tokens per forward [m] fp32.
  """
  share, (ids, speed) = processes.local(
    batch.completion, batch.tokens_per_forward)
  return share, ids, speed


def read(
  setup: setup_lib.Setup, asked: Sequence[tasks.Example], ids: np.ndarray,
  speed: np.ndarray,
) -> Answers:
  """Completions as graders take them.

  Args:
    setup: the run's fixed parts.
    asked: the b examples.
    ids: [b, t] int32, the completions.
    speed: [b] fp32, see `sampling.speed`; becomes the column
      `reward_calls.MEASURED`.
  """
  return Answers(
    [setup.prompt.question(example) for example in asked],
    [setup.tokenizer.decode(row) for row in ids],
    tasks.columns(asked) | {reward_calls.MEASURED: speed.tolist()})


def rewarded(setup: setup_lib.Setup, done: Answers) -> Answers:
  """`done` with the rewards as a column, `reward_calls.COLUMN`.

  Calls each reward function once. Metrics that are rewards read the column, so
  that they are what is learned.

  Raises:
    reward_calls.RewardError: a function failed; names it.
  """
  found = reward_calls.each(
    setup.rewards, done.prompts, done.texts, done.columns)
  return dataclasses.replace(
    done, columns=done.columns | {reward_calls.COLUMN: found})


def rewards(
  setup: setup_lib.Setup, done: Answers, share: processes.Share
) -> tuple[Rewards, dict[str, float]]:
  """The rewards to learn from, and rows for the log.

  Both are of the whole batch, of which `done`, from `rewarded`, is this
  process's `share`. A completion with an unknown reward gets NaN: it teaches
  nothing (`losses.advantages`) and is counted.
  """
  cfg = setup.cfg.rollout
  values = done.columns[reward_calls.COLUMN]
  found = share.whole({name: [one[name] for one in values]
                       for name in setup.rewards if values})
  total = np.zeros(share.total)
  row: dict[str, float] = {}
  for name, weight in zip(setup.rewards, cfg.reward_weights, strict=True):
    known = np.array(found[name], float)  # None becomes NaN
    total += weight * known
    row |= {f"reward/{name}": _mean(known), f"reward/{name}_std": _std(known)}
  reward = total.astype(np.float32)
  parts = np.array([found[name] for name in setup.rewards], np.float32).T
  parts[np.isnan(reward)] = np.nan
  weighed = np.array(cfg.reward_weights) != 0
  learned = (parts[:, weighed] if cfg.normalize == "each"
             else reward[:, None])
  teaches = np.any(~_equal(learned, cfg.group_size), 1)
  return Rewards(reward, parts, teaches), {
    "reward/mean": _mean(reward),
    "reward/std": _std(reward),
    **row,
    "reward/infrastructure_errors": float(np.sum(np.isnan(reward))),
    "update/zero_groups": float(np.mean(~teaches)),
  }


def metrics(
  setup: setup_lib.Setup, done: Answers, share: processes.Share
) -> dict[str, list[float]]:
  """The task's metrics of the whole batch; unknown values are left out.

  `done` is this process's `share` of the batch.
  """
  found = share.whole({
    name: [None if value is None else float(value) for value in values]
    for name, values in (setup.task.metrics(
      done.prompts, done.texts, **done.columns) if done.texts else {}).items()})
  return {name: [value for value in values if value is not None]
          for name, values in found.items()}


def each(
  task: tasks.Task, examples: Sequence[tasks.Example], done: Answers
) -> list[dict[str, float | None]]:
  """The metrics of every completion, under the names of its own task.

  Args:
    task: the examples' task, or a mixture that contains theirs.
    examples: one for each completion.
    done: the completions.
  """
  found: list[dict[str, float | None]] = [{} for _ in examples]
  places: dict[str | None, list[int]] = {}
  for place, example in enumerate(examples):
    places.setdefault(example.get("task"), []).append(place)
  for name, group in places.items():
    scores = task.metrics(
      [done.prompts[i] for i in group], [done.texts[i] for i in group],
      **{k: [v[i] for i in group] for k, v in done.columns.items()})
    for metric, values in scores.items():
      for place, value in zip(group, values, strict=True):
        found[place][metric.removeprefix(f"{name}/")] = value
  return found


def _equal(values: np.ndarray, group_size: int) -> np.ndarray:
  """[g, k]: whether the known ones of `values` [b, k] are equal in a group."""
  groups = values.reshape(-1, group_size, values.shape[1])
  known = ~np.isnan(groups)
  equal: np.ndarray = (np.where(known, groups, np.inf).min(1)
                       >= np.where(known, groups, -np.inf).max(1))
  return equal


def _mean(values: np.ndarray) -> float:
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else math.nan


def _std(values: np.ndarray) -> float:
  known = values[~np.isnan(values)]
  return float(known.std()) if known.size else math.nan
