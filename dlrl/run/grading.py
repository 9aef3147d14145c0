"""From completions to rewards and metrics, on the host."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from dlrl import tasks
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


def wait(completion: jax.Array) -> tuple[processes.Share, np.ndarray]:
  """Waits for completions [b, t]; this process's share and its rows."""
  share, (ids,) = processes.local(completion)
  return share, ids


def read(
  setup: setup_lib.Setup, asked: Sequence[tasks.Example], ids: np.ndarray
) -> Answers:
  """Decodes completions `ids` [b, t] int32; `asked` are their b examples."""
  return Answers(
    [setup.prompt.question(example) for example in asked],
    [setup.tokenizer.decode(row) for row in ids], tasks.columns(asked))


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
) -> tuple[np.ndarray, dict[str, float]]:
  """Weighted sums of the rewards, fp32 [b], and rows for the log.

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


def _mean(values: np.ndarray) -> float:
  known = values[~np.isnan(values)]
  return float(known.mean()) if known.size else math.nan


def _std(values: np.ndarray) -> float:
  known = values[~np.isnan(values)]
  return float(known.std()) if known.size else math.nan
