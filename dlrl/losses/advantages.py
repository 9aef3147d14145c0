"""Advantages of the completions of one prompt relative to each other.

A reward of NaN is unknown: that completion's advantage is zero, and the others
get the advantages that they would have in a group without it.
"""

import jax
import jax.numpy as jnp


def centered(reward: jax.Array, group_size: int) -> jax.Array:
  """r - mean within each group, [b]; exactly zero where all are equal.

  Args:
    reward: [b] fp32, groups contiguous; NaN where unknown.
    group_size: completions per prompt, at least 2; divides b.
  """
  groups = reward.reshape(-1, group_size)
  # Tested explicitly: the mean of equal numbers can be off by one ulp, which
  # `normalized` would divide by a tiny std and turn into an advantage of
  # order one.
  equal = jnp.nanmax(groups, 1, keepdims=True) == jnp.nanmin(
    groups, 1, keepdims=True)
  apart = groups - jnp.nanmean(groups, 1, keepdims=True)
  return jnp.where(equal | jnp.isnan(groups), 0.0, apart).reshape(-1)


def normalized(reward: jax.Array, group_size: int) -> jax.Array:
  """(r - mean) / std within each group, [b]; exactly zero where all are equal.

  The standard deviation has G - 1 in the denominator, as in the published
  training code. Source: arXiv 2510.11683, Eq. 18. Arguments: see `centered`.
  """
  groups = reward.reshape(-1, group_size)
  std = jnp.nanstd(groups, 1, ddof=1, keepdims=True)
  apart = centered(reward, group_size).reshape(-1, group_size)
  # The std of a single known reward is 0 / 0.
  return jnp.where(apart == 0, 0.0, apart / (std + 1e-6)).reshape(-1)


def leave_one_out(reward: jax.Array, group_size: int) -> jax.Array:
  """r - mean of the others in its group, [b]; zero where all are equal.

  Unlike the group's mean, this baseline does not depend on the completion's own
  reward and so adds no bias. Source: arXiv 2402.14740 (RLOO); DiffuCoder (arXiv
  2506.20639) and ESPO (arXiv 2512.03759) use it. Arguments: see `centered`.
  """
  groups = reward.reshape(-1, group_size)
  known = jnp.sum(~jnp.isnan(groups), 1, keepdims=True)
  apart = centered(reward, group_size).reshape(-1, group_size)
  # r - (sum - r) / (G - 1) = (r - mean) G / (G - 1)
  return (apart * (known / jnp.maximum(known - 1, 1))).reshape(-1)


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
  """
  groups = psi * advantage.reshape(-1, group_size)
  known = ~jnp.isnan(groups)
  up, down = (jax.nn.softmax(groups, 1, where=known),
              jax.nn.softmax(-groups, 1, where=known))
  size = jnp.sum(known, 1, keepdims=True)
  return jnp.where(known, size * (up - down), 0.0).reshape(-1)


def damp_negative(advantage: jax.Array, weight: float) -> jax.Array:
  """Advantages [b] with the negative ones multiplied by `weight` in 0..1.

  Raising a likelihood ends at probability 1; lowering an ELBO has no end, and
  the cheapest way to lower it is to make the denoiser worse everywhere. A
  weight below 1 keeps the raising terms in charge; 1 changes nothing.
  """
  return jnp.where(advantage < 0, weight * advantage, advantage)


def softmax_centered(reward: jax.Array, group_size: int) -> jax.Array:
  """`softmax_weights` of `centered` rewards, [b], as in wd1.

  Arguments: see `centered`.
  """
  # `centered` turns an unknown reward into 0, which the softmax would count.
  advantage = jnp.where(
    jnp.isnan(reward), jnp.nan, centered(reward, group_size))
  return softmax_weights(advantage, group_size)


# (reward [b], group size) -> the factors [b] of the log-likelihoods.
ADVANTAGES = {
  "normalized": normalized,
  "centered": centered,
  "leave_one_out": leave_one_out,
  "softmax": softmax_centered,
}
