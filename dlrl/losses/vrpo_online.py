"""VRPO-OL, the ELBO objective that BGPO bounds: exp(mean_j d_j) A.

Not a sum over draws, which is why the usual implementations keep every draw's
activations. Source: arXiv 2510.11683, Eq. 6-7, after arXiv 2505.19223.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective


def vrpo_online(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of n draws at once; average it over responses.

  Args:
    score: [n, b] fp32.
    old_score: [n, b], the same draws scored by the rollout's parameters.
    advantage: [b].

  Returns:
    The loss [b] and metrics [b], `ratio`: exp(mean_j d_j).
  """
  return _outer(jnp.mean(score - jax.lax.stop_gradient(old_score), 0),
                advantage)


def vrpo_online_objective() -> objective.Objective:
  """VRPO-OL through the mean change of a score."""
  return objective.Joint(
    lambda draw, rows: draw.score(draw.logps - draw.old_logps),
    lambda delta, rows: _outer(delta, rows.advantage), takes_norm=True)


def _outer(delta, advantage):
  ratio = jnp.exp(delta)
  return -ratio * advantage, {"ratio": ratio}
