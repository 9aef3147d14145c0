"""VRPO-OL, the ELBO objective that BGPO bounds: exp(mean_j d_j) A.

Not a sum over draws, which is why the usual implementations keep every draw's
activations. Source: arXiv 2510.11683, Eq. 6-7, after arXiv 2505.19223.
"""

import jax
import jax.numpy as jnp


def vrpo_online(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of n draws at once; average it over responses.

  Args:
    score: [n, b] fp32.
    old_score: [n, b], the same draws scored by the rollout's parameters.
    advantage: [b].

  Returns:
    The loss [b] and metrics, `ratio`: mean of exp(mean_j d_j).
  """
  ratio = jnp.exp(jnp.mean(score - jax.lax.stop_gradient(old_score), 0))
  return -ratio * advantage, {"ratio": jnp.mean(ratio)}
