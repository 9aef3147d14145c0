"""Advantages of the completions of one prompt relative to each other.

A reward of NaN is unknown: that completion's advantage is zero, and the others
get the advantages that they would have in a group without it.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrl.losses import floats
from dlrl.strict import shapes

# (reward [b], group size) -> the factors [b] of the log-likelihoods.
Rule = Callable[[jax.Array, int], jax.Array]


class _Groups(NamedTuple):
  """Rewards by group; arrays [g, G], or [g, 1] for what a group has one of."""

  known: jax.Array  # bool
  apart: jax.Array  # reward - mean; zero if unknown or all are equal
  std: jax.Array  # [g, 1]
  size: jax.Array  # [g, 1], known rewards, at least 1


def _groups(reward: jax.Array, group_size: int) -> _Groups:
  known, reward = _split(reward, group_size)
  size = jnp.maximum(
    jnp.sum(known, 1, keepdims=True, dtype=reward.dtype), 1)
  mean = jnp.sum(reward, 1, keepdims=True) / size
  apart = jnp.where(known, reward - mean, 0.0)
  std = jnp.sqrt(
    jnp.sum(apart**2, 1, keepdims=True) / jnp.maximum(size - 1, 1))
  # Tested explicitly: the mean of equal numbers can be off by one ulp, which
  # `normalized` would divide by a tiny std and turn into an advantage of
  # order one.
  most = jnp.max(reward, 1, keepdims=True, where=known, initial=-jnp.inf)
  least = jnp.min(reward, 1, keepdims=True, where=known, initial=jnp.inf)
  return _Groups(known, jnp.where(most <= least, 0.0, apart), std, size)


def _split(x: jax.Array, group_size: int) -> tuple[jax.Array, jax.Array]:
  """Splits x [b] into the mask of known values and x with zeros elsewhere.

  Both are [g, G].

  NaN is replaced before anything is computed: with jax_debug_nans, every NaN
  that an operation returns is an error.

  Raises:
    ValueError: `group_size` does not divide b.
  """
  x = floats.wide(x)
  if group_size < 1 or x.size % group_size:
    raise ValueError(
      f"group_size {group_size} does not divide {x.size} rewards; every group "
      "has to be whole")
  known = ~jnp.isnan(x)
  x = jnp.where(known, x, 0.0)
  return known.reshape(-1, group_size), x.reshape(-1, group_size)


def centered(reward: jax.Array, group_size: int) -> jax.Array:
  """r - mean within each group, [b]; exactly zero where all are equal.

  Args:
    reward: [b] numbers or bools, groups contiguous; NaN where unknown.
    group_size: completions per prompt, at least 2; divides b.

  Raises:
    ValueError: `group_size` does not divide b.
  """
  shapes.require("centered", reward=(reward, "b"))
  return _groups(reward, group_size).apart.reshape(-1)


def normalized(reward: jax.Array, group_size: int) -> jax.Array:
  """(r - mean) / std within each group, [b]; exactly zero where all are equal.

  The standard deviation has G - 1 in the denominator, as in the published
  training code. Source: arXiv 2510.11683, Eq. 18. Arguments: see `centered`.
  """
  shapes.require("normalized", reward=(reward, "b"))
  groups = _groups(reward, group_size)
  return (groups.apart / (groups.std + 1e-6)).reshape(-1)


def leave_one_out(reward: jax.Array, group_size: int) -> jax.Array:
  """r - mean of the others in its group, [b]; zero where all are equal.

  Unlike the group's mean, this baseline does not depend on the completion's own
  reward and so adds no bias. Source: arXiv 2402.14740 (RLOO); DiffuCoder (arXiv
  2506.20639) and ESPO (arXiv 2512.03759) use it. Arguments: see `centered`.
  """
  shapes.require("leave_one_out", reward=(reward, "b"))
  _, apart, _, size = _groups(reward, group_size)
  # r - (sum - r) / (G - 1) = (r - mean) G / (G - 1)
  return (apart * (size / jnp.maximum(size - 1, 1))).reshape(-1)


def softmax_weights(
  advantage: jax.Array, group_size: int, psi: float = 1.0
) -> jax.Array:
  """G (softmax(psi A) - softmax(-psi A)) within each group, [b].

  wd1's weights of the log-likelihoods (arXiv 2507.08838), times G so that a
  mean over responses is a mean over groups. Exactly zero where all are equal.

  Args:
    advantage: [b] fp32, groups contiguous; NaN where unknown.
    group_size: G, completions per prompt; divides b.
    psi: sharpness of the softmaxes.

  Raises:
    ValueError: `group_size` does not divide b.
  """
  shapes.require("softmax_weights", advantage=(advantage, "b"))
  known, groups = _split(advantage, group_size)
  return _weights(known, psi * groups)


def _weights(known: jax.Array, groups: jax.Array) -> jax.Array:
  # Where nothing is known, a softmax over no number would be 0 / 0.
  counted = known | ~jnp.any(known, 1, keepdims=True)
  up, down = (jax.nn.softmax(x, 1, where=counted) for x in (groups, -groups))
  size = jnp.sum(known, 1, keepdims=True, dtype=groups.dtype)
  return jnp.where(known, size * (up - down), 0.0).reshape(-1)


def decoupled(
  rewards: jax.Array, group_size: int, *, weights: Sequence[float],
  rule: Rule = normalized,
) -> jax.Array:
  """The weighted sum of each reward's own advantages, [b].

  A reward that differs much within its groups does not drown out the others, as
  it would in the advantages of a sum. Source: LightningRL (arXiv 2603.13319).

  Args:
    rewards: [b, k] numbers or bools, groups contiguous; NaN where unknown. A
      completion with one unknown reward still counts in those that are known.
    group_size: completions per prompt, at least 2; divides b.
    weights: of the k rewards.
    rule: one of `ADVANTAGES`.

  Raises:
    ValueError: `group_size` does not divide b, or there are not k weights
      (`strict.ArgumentError`, as for other shapes).
  """
  shapes.require("decoupled", weights=(weights, "k"), rewards=(rewards, "bk"))
  rewards = floats.wide(rewards)
  return sum((
    weight * rule(reward, group_size)
    for weight, reward in zip(weights, rewards.T, strict=True)),
    jnp.zeros(rewards.shape[0], rewards.dtype))


def damp_negative(advantage: jax.Array, weight: float) -> jax.Array:
  """Advantages [b] with the negative ones multiplied by `weight` in 0..1.

  Raising a likelihood ends at probability 1; lowering an ELBO has no end, and
  the cheapest way to lower it is to make the denoiser worse everywhere. A
  weight below 1 keeps the raising terms in charge; 1 changes nothing.
  """
  shapes.require("damp_negative", advantage=(advantage, "b"))
  advantage = floats.wide(advantage)
  return jnp.where(advantage < 0, weight * advantage, advantage)


def softmax_centered(reward: jax.Array, group_size: int) -> jax.Array:
  """`softmax_weights` of `centered` rewards, [b], as in wd1.

  Arguments: see `centered`.
  """
  shapes.require("softmax_centered", reward=(reward, "b"))
  known, apart, *_ = _groups(reward, group_size)
  return _weights(known, apart)


ADVANTAGES: dict[str, Rule] = {
  "normalized": normalized,
  "centered": centered,
  "leave_one_out": leave_one_out,
  "softmax": softmax_centered,
}
