"""VRPO-OL, the ELBO objective that BGPO bounds: exp(mean_j d_j) A.

The exp of a mean is not a sum over draws, which is why common implementations
keep the activations of every draw. Source: arXiv 2510.11683, Eq. 6-7, after
arXiv 2505.19223.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective


def vrpo_online(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> objective.LossAndMetrics:
  """The loss [b] and the metric `ratio` [b], exp(mean_j d_j).

  Average the loss over responses. Arguments: see `bgpo`.
  """
  return _outer(jnp.mean(score - jax.lax.stop_gradient(old_score), 0),
                advantage)


def vrpo_online_objective() -> objective.Joint:
  """VRPO-OL as a function of the mean change of a score."""
  return objective.Joint(
    lambda draw, rows: draw.score(draw.logps - draw.old_logps),
    lambda delta, rows: _outer(delta, rows.advantage), takes_norm=True)


def _outer(
  delta: jax.Array, advantage: jax.Array
) -> objective.LossAndMetrics:
  ratio = jnp.exp(delta)
  return -ratio * advantage, {"ratio": ratio}
