"""Advantages of the completions of one prompt relative to each other.

A reward that is NaN is not known: that completion's advantage is zero, and the
others' are what they would be in a group without it.
"""

import jax
import jax.numpy as jnp


def centered(reward: jax.Array, group_size: int) -> jax.Array:
  """r - mean within each group; exactly zero where all are equal.

  Args:
    reward: [b] fp32, groups contiguous; NaN where it is not known.
    group_size: G >= 2, divides b.
  """
  groups = reward.reshape(-1, group_size)
  # An explicit test: the mean of equal numbers may be off by one ulp, which
  # divided by a tiny std would be an advantage of order one.
  equal = jnp.nanmax(groups, 1, keepdims=True) == jnp.nanmin(
    groups, 1, keepdims=True)
  apart = groups - jnp.nanmean(groups, 1, keepdims=True)
  return jnp.where(equal | jnp.isnan(groups), 0.0, apart).reshape(-1)


def normalized(reward: jax.Array, group_size: int) -> jax.Array:
  """(r - mean) / std within each group; exactly zero where all are equal.

  The standard deviation has G - 1 in the denominator, as in the published
  training code. Source: arXiv 2510.11683, Eq. 18. Arguments as of `centered`.
  """
  groups = reward.reshape(-1, group_size)
  std = jnp.nanstd(groups, 1, ddof=1, keepdims=True)
  apart = centered(reward, group_size).reshape(-1, group_size)
  # One alone has no deviation.
  return jnp.where(apart == 0, 0.0, apart / (std + 1e-6)).reshape(-1)


def leave_one_out(reward: jax.Array, group_size: int) -> jax.Array:
  """r - mean of the others of its group; a baseline without bias.

  Zero where all are equal. Source: arXiv 2402.14740 (RLOO); DiffuCoder (arXiv
  2506.20639) and ESPO (arXiv 2512.03759) use it. Arguments as of `centered`.
  """
  groups = reward.reshape(-1, group_size)
  known = jnp.sum(~jnp.isnan(groups), 1, keepdims=True)
  apart = centered(reward, group_size).reshape(-1, group_size)
  return (apart * (known / jnp.maximum(known - 1, 1))).reshape(-1)


def softmax_weights(
  advantage: jax.Array, group_size: int, psi: float = 1.0
) -> jax.Array:
  """G (softmax(psi A) - softmax(-psi A)) within each group of advantages.

  wd1's weights of the likelihoods (arXiv 2507.08838), times G so that a mean
  over responses is one over groups. Exactly zero where all are equal. Arguments
  as of `centered`; an advantage that is NaN is not known, either.
  """
  groups = psi * advantage.reshape(-1, group_size)
  known = ~jnp.isnan(groups)
  up, down = (jax.nn.softmax(groups, 1, where=known),
              jax.nn.softmax(-groups, 1, where=known))
  size = jnp.sum(known, 1, keepdims=True)
  return jnp.where(known, size * (up - down), 0.0).reshape(-1)


def damp_negative(advantage: jax.Array, weight: float) -> jax.Array:
  """Negative advantages times `weight` in [0, 1].

  Pushing a likelihood up is bounded, by 1; pushing an ELBO down is not, and the
  cheapest way down is to spoil the denoiser everywhere. Less weight below zero
  keeps the push up in charge. A weight of 1 changes nothing.
  """
  return jnp.where(advantage < 0, weight * advantage, advantage)


def softmax_centered(reward: jax.Array, group_size: int) -> jax.Array:
  """`softmax_weights` of `centered` rewards: what wd1 does with them."""
  advantage = jnp.where(
    jnp.isnan(reward), jnp.nan, centered(reward, group_size))
  return softmax_weights(advantage, group_size)


# (reward [b], group size) -> what a likelihood is multiplied by, [b].
ADVANTAGES = {
  "normalized": normalized,
  "centered": centered,
  "leave_one_out": leave_one_out,
  "softmax": softmax_centered,
}
