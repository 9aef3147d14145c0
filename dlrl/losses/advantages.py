"""Advantages of the completions of one prompt relative to each other."""

import jax
import jax.numpy as jnp


def normalized(reward: jax.Array, group_size: int) -> jax.Array:
  """(r - mean) / std within each group; exactly zero where all are equal.

  The standard deviation has G - 1 in the denominator, as in the published
  training code. Source: arXiv 2510.11683, Eq. 18.

  Args:
    reward: [b] fp32, groups contiguous.
    group_size: G >= 2, divides b.
  """
  groups = reward.reshape(-1, group_size)
  centered = groups - jnp.mean(groups, 1, keepdims=True)
  std = jnp.std(groups, 1, ddof=1, keepdims=True)
  # An explicit test: the mean of equal numbers may be off by one ulp, which
  # divided by a tiny std would be an advantage of order one.
  equal = jnp.max(groups, 1, keepdims=True) == jnp.min(
    groups, 1, keepdims=True)
  scaled = jnp.where(equal, 0.0, centered / (std + 1e-6))
  return scaled.reshape(-1)


def damp_negative(advantage: jax.Array, weight: float) -> jax.Array:
  """Negative advantages times `weight` in [0, 1].

  Pushing a likelihood up is bounded, by 1; pushing an ELBO down is not, and the
  cheapest way down is to spoil the denoiser everywhere. Less weight below zero
  keeps the push up in charge. A weight of 1 changes nothing.
  """
  return jnp.where(advantage < 0, weight * advantage, advantage)
