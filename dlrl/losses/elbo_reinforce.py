"""REINFORCE with the ELBO in place of the log-likelihood: A * mean_j score_j.

What every ELBO objective is on-policy, to first order (arXiv 2510.11683,
Eq. 15-17).
"""

import jax
import jax.numpy as jnp


def elbo_reinforce_statistic(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> jax.Array:
  """One draw's term, to be maximised; [b] fp32. The old score is not used."""
  del old_score
  return score * advantage


def elbo_reinforce(
  score: jax.Array, advantage: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss [b] of scores [n, b] and advantages [b], and no metrics."""
  return -jnp.mean(score, 0) * advantage, {}
