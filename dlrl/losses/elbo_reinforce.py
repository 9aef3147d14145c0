"""REINFORCE with the ELBO in place of the log-likelihood: A * mean_j score_j.

On-policy, every ELBO objective has this gradient (arXiv 2510.11683, Eq. 15-17).
"""

import jax

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.strict import shapes


def elbo_reinforce(
  score: jax.Array, advantage: jax.Array
) -> objective.LossAndMetrics:
  """The loss [b] of scores [n, b] and advantages [b], and no metrics."""
  shapes.require(
    "elbo_reinforce", score=(score, "nb"), advantage=(advantage, "b"))
  score, advantage = floats.wide(score, advantage)
  return -objective.over_draws(score) * advantage, {}


def elbo_reinforce_objective() -> objective.Separable:
  """REINFORCE, one draw at a time."""
  return objective.Separable(
    lambda draw, rows: elbo_reinforce(
      draw.score(draw.logps)[None], rows.advantage),
    takes_norm=True, others="scores")
