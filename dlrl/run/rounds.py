"""The rollouts of a step: one, and further ones for groups that teach nothing.

If all rewards of a group are equal, its advantages are zero. With
`rollout.resample`, such groups are replaced by groups of further prompts
(dynamic sampling, DAPO, arXiv 2503.14476), so that updates are made of groups
that teach. A round draws a whole batch, whose shapes never change: the same
programs serve every round.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import data
from dlrl import keys as keys_lib
from dlrl import tasks
from dlrl import update
from dlrl.run import grading
from dlrl.run import setup as setup_lib
from dlrl.runtime import clock
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime import processes


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A rollout that the devices may still be computing.

  Attributes:
    prompts: a batch of g prompts, see `data.rl_batches`.
    examples: what they ask.
    batch: their completions.
    forwards: scalar, forward passes.
  """

  prompts: dict[str, np.ndarray]
  examples: list[tasks.Example]
  batch: update.Batch
  forwards: jax.Array


@dataclasses.dataclass(frozen=True)
class Graded:
  """A rollout with its rewards.

  Attributes:
    share: the rows that this process has graded.
    done: what they are.
    rewards: of the whole batch.
    row: for the log, of the whole batch.
  """

  share: processes.Share
  done: grading.Answers
  rewards: grading.Rewards
  row: dict[str, float]


def key(setup: setup_lib.Setup, number: int) -> jax.Array:
  """The root key of round `number`, from 1, in place of `TrainState.key`."""
  keys = keys_lib.of(setup.root_key, keys_lib.Seed.RESAMPLING)
  found: jax.Array = setup.put_whole(np.asarray(jax.random.key_data(
    jax.random.fold_in(keys, number))))
  return found


def grade(setup: setup_lib.Setup, drawn: Drawn, began: float) -> Graded:
  """Waits for a rollout and rewards it; `began`: when the devices began."""
  batch, group = drawn.batch, setup.cfg.rollout.group_size
  share, *answers = grading.wait(batch)
  free, speed, forwards = jax.device_get((
    jnp.sum(batch.maskable), jnp.mean(batch.tokens_per_forward),
    drawn.forwards))
  rolled = clock.now()
  with jax.profiler.TraceAnnotation("reward"):
    done = grading.rewarded(setup, grading.read(
      setup, [drawn.examples[i // group] for i in share.places], *answers))
    rewards, row = grading.rewards(setup, done, share)
  return Graded(share, done, rewards, row | {
    "time/rollout": rolled - began, "time/reward": clock.now() - rolled,
    "rollout/free": int(free) / batch.maskable.size,
    "rollout/forwards": float(forwards),
    "rollout/prompt_width": float(data.width(
      drawn.prompts["prompt_length"], setup.cfg.task.prompt_length)),
    "rollout/tokens_per_forward": float(speed)})


def learned(
  setup: setup_lib.Setup, drawn: Drawn, graded: Graded,
  again: Callable[[int], Drawn],
) -> tuple[tuple[Any, ...], dict[str, float]]:
  """The update's arguments after its state, and rows for the log.

  Groups that teach nothing are replaced, from the first on, by those of further
  rounds that teach something, in the order in which they are drawn. After
  `rollout.resample` rounds the rest stays.

  Args:
    setup: the run's fixed parts.
    drawn: the step's rollout.
    graded: its rewards.
    again: draws round n, from 1, of further prompts.

  Returns:
    The arguments of `update.make_learn` after the state. Rows only with
    `rollout.resample`; they replace those of `graded`.
  """
  cfg = setup.cfg.rollout
  batch, position, rewards = (
    drawn.batch, drawn.prompts["position"], graded.rewards)
  began, rounds, idle = clock.now(), 0, int(np.sum(~rewards.teaches))
  errors = graded.row["reward/infrastructure_errors"]
  while rounds < cfg.resample and not rewards.teaches.all():
    rounds += 1
    fresh = again(rounds)
    found = grade(setup, fresh, clock.now())
    idle += int(np.sum(~found.rewards.teaches))
    errors += found.row["reward/infrastructure_errors"]
    groups = _chosen(rewards.teaches, found.rewards.teaches)
    rows = (groups[:, None] * cfg.group_size
            + np.arange(cfg.group_size)).reshape(-1)
    batch = _picker(mesh_lib.batch_sharding(setup.mesh))(
      batch, fresh.batch, rows)
    position = _pick(position, fresh.prompts["position"], groups)
    rewards = grading.Rewards(*(
      _pick(old, new, at) for old, new, at in zip(
        _fields(rewards), _fields(found.rewards), (rows, rows, groups),
        strict=True)))
  arguments = (batch, setup.put_whole(position), *setup.put_batch(
    rewards.learned(cfg)))
  return arguments, {} if not cfg.resample else {
    "reward/infrastructure_errors": errors,
    "rollout/resampled": float(rounds),
    "rollout/zero_groups": idle / (cfg.prompts * (1 + rounds)),
    "rollout/discarded_groups": rounds / (1 + rounds),
    "update/zero_groups": float(np.mean(~rewards.teaches)),
    "time/resampling": clock.now() - began}


def _chosen(old: np.ndarray, new: np.ndarray) -> np.ndarray:
  """Which groups to keep, [g] int32 places in the old ones and then the new.

  Args:
    old: [g] bool, the groups of the batch that teach something.
    new: [g] bool, the groups of a further round that do.
  """
  groups = np.arange(old.size, dtype=np.int32)
  free, found = np.flatnonzero(~old), np.flatnonzero(new)
  count = min(free.size, found.size)
  groups[free[:count]] = old.size + found[:count]
  return groups


def _fields(rewards: grading.Rewards) -> list[np.ndarray]:
  return [getattr(rewards, f.name) for f in dataclasses.fields(rewards)]


def _pick(old: np.ndarray, new: np.ndarray, places: np.ndarray) -> np.ndarray:
  found: np.ndarray = np.concatenate([old, new])[places]
  return found


@functools.cache  # one program for all steps
def _picker(sharding: Any) -> Callable[..., update.Batch]:
  """`_pick` for the rows of batches, which keep their sharding."""
  def pick(old: update.Batch, new: update.Batch, places: jax.Array
           ) -> update.Batch:
    return jax.tree.map(
      lambda *both: jnp.concatenate(both)[places], old, new)

  return jax.jit(pick, out_shardings=sharding)
