"""VRPO-OL, the ELBO objective that BGPO bounds: exp(mean_j d_j) A.

The exp of a mean is not a sum over draws, which is why common implementations
keep the activations of every draw. Source: arXiv 2510.11683, Eq. 6-7, after
arXiv 2505.19223.
"""

import jax

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.strict import shapes


def vrpo_online(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> objective.LossAndMetrics:
  """The loss [b] and the metric `ratio` [b], exp(mean_j d_j).

  Average the loss over responses. Arguments: see `bgpo`.
  """
  shapes.require(
    "vrpo_online", score=(score, "nb"), old_score=(old_score, "nb"),
    advantage=(advantage, "b"))
  score, old_score = floats.wide(score, old_score)
  return _outer(
    objective.over_draws(score - jax.lax.stop_gradient(old_score)), advantage)


def vrpo_online_objective() -> objective.Joint:
  """VRPO-OL as a function of the mean change of a score."""
  return objective.Joint(
    _delta,
    lambda delta, rows: _outer(delta, rows.advantage), takes_norm=True,
    others="scores")


def _delta(
  draw: objective.Scored, rows: objective.Responses
) -> jax.Array:
  del rows
  return draw.score(draw.logps) - jax.lax.stop_gradient(
    draw.score(draw.old_logps))


def _outer(
  delta: jax.Array, advantage: jax.Array
) -> objective.LossAndMetrics:
  delta, advantage = floats.wide(delta, advantage)
  ratio = floats.exp(delta)
  return -ratio * advantage, {"ratio": ratio}
