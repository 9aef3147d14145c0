"""STP's spatial pruning: which tokens of a completion are fixed beforehand.

STP (arXiv 2602.08905) says that static priors constrain what a rollout explores
and that the variance of the likelihood falls. Its text is not public in full;
what a prior is made of, how much of it is fixed and until when is reconstructed
here: known tokens of every answer, or a good completion of the same prompt that
the policy itself once found, part of which is masked again.

A fixed token is the same in all completions of a group. Neither the loss nor
the forward process sees it, except as context.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


def annealed(share: float, step: jax.Array, steps: int) -> jax.Array:
  """`share` at step 0, falling linearly to 0 at `steps`; constant if 0 steps.

  Args:
    share: in 0..1.
    step: scalar int32, finished RL steps.
    steps: RL steps.
  """
  if not steps:
    return jnp.float32(share)
  return share * jnp.maximum(1 - step / steps, 0)


def _random(keys, logps):
  return jax.vmap(lambda k, x: jax.random.uniform(k, x.shape))(keys, logps)


def _tail(keys, logps):
  del keys
  return jnp.broadcast_to(-jnp.arange(logps.shape[-1]), logps.shape)


def _lowprob(keys, logps):
  del keys
  return logps


# Which tokens are masked again: any of them, the last, the least probable.
# (keys [g], logps [g, t]) -> what to fix first, the greatest, [g, t].
REMASK = {"random": _random, "tail": _tail, "lowprob": _lowprob}


def keep(order: jax.Array, known: jax.Array, share: jax.Array) -> jax.Array:
  """The tokens that are fixed, [g, t] bool.

  Args:
    order: [g, t], the greatest are fixed first; ties from left to right.
    known: [g, t] bool, the tokens that may be fixed.
    share: scalar in 0..1 of the known ones of each row, rounded to a number.
  """
  count = jnp.floor(share * jnp.sum(known, -1, keepdims=True) + 0.5)
  rank = jnp.argsort(jnp.argsort(jnp.where(known, -order, jnp.inf), -1), -1)
  return known & (rank < count)


class Memory(NamedTuple):
  """The last good completion of each prompt, as many as there are slots.

  Attributes:
    owner: [s] int32, index of the prompt that has the slot; -1: nobody.
    completion: [s, t] int32.
  """

  owner: jax.Array
  completion: jax.Array


def empty(slots: int, length: int) -> Memory:
  """Nothing remembered yet."""
  return Memory(jnp.full(slots, -1, jnp.int32),
                jnp.zeros((slots, length), jnp.int32))


def recall(memory: Memory, index: jax.Array) -> tuple[jax.Array, jax.Array]:
  """`(completion [g, t], whether there is one [g])` of prompts `index` [g]."""
  slot = index % memory.owner.shape[0]
  return memory.completion[slot], memory.owner[slot] == index


def store(
  memory: Memory, index: jax.Array, completion: jax.Array, reward: jax.Array,
  min_reward: float,
) -> Memory:
  """Remembers the best completion of each group if it is good enough.

  Two prompts of one slot take turns; of two in one batch the first is kept.

  Args:
    memory: to be updated.
    index: [g] int32, of the prompts, not negative.
    completion: [b, t] int32, groups contiguous.
    reward: [b] fp32; what has NaN, not known, is not remembered.
    min_reward: of what is worth remembering.
  """
  groups = index.shape[0]
  slots = memory.owner.shape[0]
  rewards = jnp.where(jnp.isnan(reward), -jnp.inf, reward).reshape(groups, -1)
  best = jnp.argmax(rewards, -1)
  found = completion.reshape(groups, -1, completion.shape[-1])[
    jnp.arange(groups), best]
  good = jnp.max(rewards, -1) >= min_reward
  slot = jnp.where(good, index % slots, slots)  # out of range: dropped
  earlier = jnp.tril(slot[:, None] == slot[None], -1)
  slot = jnp.where(jnp.any(earlier, -1), slots, slot)
  return Memory(memory.owner.at[slot].set(index, mode="drop"),
                memory.completion.at[slot].set(found, mode="drop"))
