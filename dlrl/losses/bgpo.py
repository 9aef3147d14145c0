"""BGPO: a lower bound of the ELBO objective that is a sum over draws.

With d_j the change of draw j's ELBO estimate since the rollout and A the
advantage, exp(mean_j d_j) A is bounded from below by the mean of

    g_j = (1 + d_j) A    where A >= 0    (exp(x) >= 1 + x, then linear in d_j)
    g_j = exp(d_j) A     where A <  0    (Jensen; A turns the sign around)

and equals it in value and gradient at d = 0. Source: arXiv 2510.11683, Eq. 13.
"""

import jax
import jax.numpy as jnp


def bgpo_statistic(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> jax.Array:
  """g_j of one draw, to be maximised; [b] fp32.

  Args:
    score: [b] fp32, the draw's ELBO estimate under the parameters trained.
    old_score: [b], the same draw's under those that made the rollout.
    advantage: [b].
  """
  delta = score - jax.lax.stop_gradient(old_score)
  good = advantage >= 0
  # The inner where keeps an exp that overflows out of the other branch's
  # gradient, where it would be inf * 0.
  falling = jnp.exp(jnp.where(good, 0.0, delta))
  return jnp.where(good, 1 + delta, falling) * advantage


def bgpo(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of n draws at once; average it over responses.

  Args:
    score: [n, b] fp32.
    old_score: [n, b], the same draws scored by the rollout's parameters.
    advantage: [b].

  Returns:
    The loss [b] and metrics, `delta`: mean absolute change of a score.
  """
  terms = jax.vmap(bgpo_statistic, (0, 0, None))(score, old_score, advantage)
  return -jnp.mean(terms, 0), {"delta": jnp.mean(jnp.abs(score - old_score))}
