"""STP's spatial pruning: tokens of a completion that are fixed in advance.

STP (arXiv 2602.08905) states that static priors restrict what a rollout
explores and that this lowers the variance of the likelihood. Its full text is
not public. What a prior contains, how much of it is fixed and for how long is
reconstructed here: tokens that every valid answer shares, or a good completion
of the same prompt that the policy found earlier, part of it masked again.

A fixed token is the same in all completions of a group. The loss and the
forward process treat it as context only.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrl.diffusion import inferred_sharding
from dlrl.losses import floats


def annealed(share: float, step: jax.Array, steps: int) -> jax.Array:
  """`share` at step 0, falling linearly to 0 at `steps`; constant if 0 steps.

  Args:
    share: in 0..1.
    step: scalar int32, finished RL steps.
    steps: RL steps.
  """
  if not steps:
    return jnp.asarray(share, jnp.float32)
  return share * jnp.maximum(1 - jnp.asarray(step, jnp.float32) / steps, 0)


def _random(keys: jax.Array, logps: jax.Array) -> jax.Array:
  return jax.vmap(lambda k, x: jax.random.uniform(
    k, x.shape, jnp.float32))(keys, logps)


def _tail(keys: jax.Array, logps: jax.Array) -> jax.Array:
  del keys
  return jnp.broadcast_to(
    -jnp.arange(logps.shape[-1], dtype=jnp.float32)[None], logps.shape)


def _lowprob(keys: jax.Array, logps: jax.Array) -> jax.Array:
  del keys
  return logps


# Which tokens are masked again: random ones, the last, the least probable.
# (keys [g], logps [g, t]) -> order [g, t]; the greatest stay fixed.
REMASK = {"random": _random, "tail": _tail, "lowprob": _lowprob}


def keep(
  order: jax.Array, known: jax.Array, share: float | jax.Array
) -> jax.Array:
  """The tokens that stay fixed, [g, t] bool.

  Args:
    order: [g, t], the greatest are fixed first; ties from left to right.
    known: [g, t] bool, the tokens that may be fixed.
    share: scalar in 0..1 of each row's known tokens; the number is rounded,
      half up.
  """
  order, share, known_tokens = floats.wide(order, share, known)
  count = jnp.floor(share * jnp.sum(known_tokens, -1, keepdims=True) + 0.5)
  # argsort of argsort is the rank; both sorts are stable, so ties keep their
  # order.
  rank = jnp.argsort(jnp.argsort(jnp.where(known, -order, jnp.inf), -1), -1)
  return known & (rank.astype(count.dtype) < count)


class Memory(NamedTuple):
  """The last good completion of each prompt, in a fixed number of slots.

  Attributes:
    owner: [s] int32, index of the prompt that has the slot; -1 if empty.
    completion: [s, t] int32.
  """

  owner: jax.Array
  completion: jax.Array


def empty(slots: int, length: int) -> Memory:
  """A memory of `slots` completions of `length` tokens, all slots empty."""
  return Memory(jnp.full(slots, -1, jnp.int32),
                jnp.zeros((slots, length), jnp.int32))


def recall(memory: Memory, index: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Looks up the prompts with indices `index` [g].

  Returns:
    Completions [g, t], and [g] bool, True if the memory has one; other
    completions are arbitrary.
  """
  def find(
    memory: Memory, index: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    slot = index % memory.owner.shape[0]
    return memory.completion[slot], memory.owner[slot] == index

  return inferred_sharding.inside(find, index, index)(memory, index)


def store(
  memory: Memory, index: jax.Array, completion: jax.Array, reward: jax.Array,
  min_reward: float,
) -> Memory:
  """Stores the best completion of each group if its reward is high enough.

  A slot belongs to the last prompt stored in it; of two prompts of one batch
  that share a slot the first is stored.

  Args:
    memory: to be updated.
    index: [g] int32, of the prompts, not negative.
    completion: [b, t] int32, groups contiguous.
    reward: [b] fp32; a completion whose reward is NaN, unknown, is not stored.
    min_reward: the smallest reward that is stored.
  """
  update = functools.partial(_store, min_reward=min_reward)
  return inferred_sharding.inside(update, completion, memory)(
    memory, index, completion, reward)


def _store(
  memory: Memory, index: jax.Array, completion: jax.Array, reward: jax.Array,
  min_reward: float,
) -> Memory:
  groups = index.shape[0]
  slots = memory.owner.shape[0]
  reward = floats.wide(reward)
  rewards = jnp.where(jnp.isnan(reward), -jnp.inf, reward).reshape(groups, -1)
  best = jnp.argmax(rewards, -1)
  found = completion.reshape(groups, -1, completion.shape[-1])[
    jnp.arange(groups), best]
  good = jnp.max(rewards, -1) >= min_reward
  slot = jnp.where(good, index % slots, slots)  # out of range: dropped
  # Two writes to one index of a scatter have no defined order.
  earlier = jnp.tril(slot[:, None] == slot[None], -1)
  slot = jnp.where(jnp.any(earlier, -1), slots, slot)
  return Memory(memory.owner.at[slot].set(index, mode="drop"),
                memory.completion.at[slot].set(found, mode="drop"))
