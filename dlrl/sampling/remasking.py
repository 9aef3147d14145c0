"""Remasking rules: which of the predicted tokens are committed at a step."""

import jax
import jax.numpy as jnp


def low_confidence(
  confidence: jax.Array, masked: jax.Array, count: jax.Array
) -> jax.Array:
  """The `count` masked positions with the highest confidence, [b, t] bool.

  All others stay masked. Ties go to the left. Source: LLaDA (arXiv 2502.09992),
  Algorithm 5.

  Args:
    confidence: [b, t] fp32 probability of the predicted token.
    masked: [b, t] bool, the positions that may be committed.
    count: [b] int; rows with fewer masked positions commit all of them.
  """
  order = jnp.argsort(jnp.where(masked, -confidence, jnp.inf), axis=1)
  rank = jnp.argsort(order, axis=1)
  return masked & (rank < count[:, None])
