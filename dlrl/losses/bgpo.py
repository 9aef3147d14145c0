"""BGPO: a lower bound of the ELBO objective that is a sum over draws.

With d_j the change of draw j's ELBO estimate since the rollout and A the
advantage, exp(mean_j d_j) A is bounded from below by the mean of

    g_j = (1 + d_j) A    where A >= 0    (exp(x) >= 1 + x, then linear in d_j)
    g_j = exp(d_j) A     where A <  0    (Jensen; A turns the sign around)

and equals it in value and gradient at d = 0. Source: arXiv 2510.11683, Eq. 13.
The paper does not clip. `bgpo_clipped` does, like the public re-implementation
in DARE: it applies PPO's clip to the ratio (1 + d_j or exp(d_j)) and limits the
loss of a response with a negative advantage.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib
from dlrl.strict import shapes


def _ratio(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> jax.Array:
  delta = score - jax.lax.stop_gradient(old_score)
  good = advantage >= 0
  return jnp.where(good, 1 + delta, floats.exp(delta))


def bgpo_statistic(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> jax.Array:
  """g_j of one draw, to be maximised; [b] fp32.

  Args:
    score: [b] fp32, the draw's ELBO estimate under the trained parameters.
    old_score: [b] fp32, under the parameters that generated the rollout.
    advantage: [b] fp32.
  """
  shapes.require(
    "bgpo_statistic", score=(score, "b"), old_score=(old_score, "b"),
    advantage=(advantage, "b"))
  return _statistic(score, old_score, advantage)


def _statistic(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> jax.Array:
  score, old_score, advantage = floats.wide(score, old_score, advantage)
  # (1 + d) A is linear in d. exp(d) A is concave in d where A < 0. So the mean
  # over draws of g_j bounds the joint objective from below, and its gradient is
  # a sum of the draws' gradients.
  return _ratio(score, old_score, advantage) * advantage


def bgpo(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array
) -> objective.LossAndMetrics:
  """The loss of n draws; average it over responses.

  Args:
    score: [n, b] fp32.
    old_score: [n, b] fp32, the same draws under the rollout's parameters.
    advantage: [b] fp32.

  Returns:
    The loss [b] and metrics [b]: `delta`, the mean absolute change of a score.
  """
  shapes.require(
    "bgpo", score=(score, "nb"), old_score=(old_score, "nb"),
    advantage=(advantage, "b"))
  score, old_score, a = floats.wide(score, old_score, advantage)
  loss = -objective.over_draws(_statistic(score, old_score, a[None]))
  return loss, {"delta": objective.over_draws(jnp.abs(score - old_score))}


def bgpo_clipped(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array, *,
  clip: ratio_lib.Clip, dual_clip: float,
) -> objective.LossAndMetrics:
  """`bgpo` with the term of every draw clipped.

  Args:
    score: [n, b] fp32.
    old_score: [n, b] fp32, the same draws under the rollout's parameters.
    advantage: [b] fp32.
    clip: how far the ratio counts below and above 1.
    dual_clip: where A < 0, the largest ratio that counts; above 1.

  Returns:
    The loss [b] and metrics [b]: `clip`, the share of clipped draws.
  """
  shapes.require(
    "bgpo_clipped", score=(score, "nb"), old_score=(old_score, "nb"),
    advantage=(advantage, "b"))
  score, old_score, advantage = floats.wide(score, old_score, advantage)
  a = advantage[None]
  term, flat = ratio_lib.clipped(_ratio(score, old_score, a), a, clip)
  limit = dual_clip * a
  # PPO's clip alone leaves this side open: with A < 0 the loss grows without
  # bound as the ratio does.
  over = (a < 0) & (term < limit)
  term = jnp.where(over, limit, term)
  return -objective.over_draws(term), {
    "clip": objective.over_draws(floats.wide(flat | over))}


def bgpo_objective() -> objective.Separable:
  """BGPO as in the paper."""
  return objective.Separable(
    lambda draw, rows: (-bgpo_statistic(
      draw.score(draw.logps), draw.score(draw.old_logps), rows.advantage), {}),
    takes_norm=True, others="scores")


def bgpo_clipped_objective(
  clip_low: float = 0.2, clip_high: float = 0.2, dual_clip: float = 3.0
) -> objective.Separable:
  """BGPO with DARE's clips, by default at DARE's values."""
  return objective.Separable(
    lambda draw, rows: bgpo_clipped(
      draw.score(draw.logps)[None], draw.score(draw.old_logps)[None],
      rows.advantage, clip=(clip_low, clip_high), dual_clip=dual_clip),
    takes_norm=True, others="scores")
