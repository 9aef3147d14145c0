"""VRPO: preference optimization (DPO) with ELBOs as log-likelihoods.

-log sigmoid(beta (change of the chosen response's ELBO - change of the rejected
one's)), changes since the reference. The variance is reduced by the draws: many
noise levels with one mask each, the same for policy and reference. Source:
arXiv 2505.19223.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.strict import shapes


def vrpo_offline(
  chosen: jax.Array, rejected: jax.Array, ref_chosen: jax.Array,
  ref_rejected: jax.Array, *, beta: float,
) -> objective.LossAndMetrics:
  """The loss; average it over pairs.

  Args:
    chosen: [n, b] fp32, scores of the better responses.
    rejected: [n, b] fp32, scores of the worse responses.
    ref_chosen: [n, b] fp32, the draws of `chosen` under the reference.
    ref_rejected: [n, b] fp32, the draws of `rejected` under the reference.
    beta: strength of the preference; 0.2 in the paper.

  Returns:
    The loss [b] and metrics [b]: `margin`, and `right`, 1 where it is positive.
  """
  shapes.require(
    "vrpo_offline", chosen=(chosen, "nb"), rejected=(rejected, "nb"),
    ref_chosen=(ref_chosen, "nb"), ref_rejected=(ref_rejected, "nb"))
  chosen, rejected, ref_chosen, ref_rejected = floats.wide(
    chosen, rejected, ref_chosen, ref_rejected)
  return vrpo_offline_outer(
    objective.over_draws(chosen - jax.lax.stop_gradient(ref_chosen)),
    objective.over_draws(rejected - jax.lax.stop_gradient(ref_rejected)),
    beta=beta)


def vrpo_offline_outer(
  chosen: jax.Array, rejected: jax.Array, *, beta: float
) -> objective.LossAndMetrics:
  """`vrpo_offline` of the mean changes of the scores, [b] each."""
  shapes.require(
    "vrpo_offline_outer", chosen=(chosen, "b"), rejected=(rejected, "b"))
  chosen, rejected = floats.wide(chosen, rejected)
  margin = beta * (chosen - rejected)
  # softplus(-x) = -log sigmoid(x), without overflow
  return jax.nn.softplus(-margin), {
    "margin": margin, "right": floats.wide(margin > 0)}


def vrpo_offline_objective(beta: float = 0.2) -> objective.Joint:
  """VRPO on pairs of rows, 2i and 2i + 1; the greater advantage is chosen.

  Both rows of a pair have the pair's loss, which is 0 if their advantages are
  equal.
  """
  def statistic(
    draw: objective.Scored, rows: objective.Responses
  ) -> tuple[jax.Array, jax.Array]:
    del rows
    assert draw.ref_logps is not None  # because of needs_ref
    return draw.score(draw.logps), draw.score(draw.ref_logps)

  def outer(
    means: tuple[jax.Array, jax.Array], rows: objective.Responses
  ) -> objective.LossAndMetrics:
    score, ref_score, advantage = floats.wide(*means, rows.advantage)
    change = (score - jax.lax.stop_gradient(ref_score)).reshape(-1, 2)
    first, second = advantage.reshape(-1, 2).T
    # Multiplying both changes by -1 swaps chosen and rejected.
    sign = jnp.sign(first - second)
    pairs = vrpo_offline_outer(
      sign * change[:, 0], sign * change[:, 1], beta=beta)

    def of_rows(x: jax.Array) -> jax.Array:
      x = jnp.where(sign == 0, 0.0, x)
      # Not `repeat`, which has no sharding where the mesh is Explicit.
      return jnp.stack([x, x], 1).reshape(-1)

    return objective.reduce(pairs, of_rows)

  return objective.Joint(
    statistic, outer, needs_ref=True, together=2, others="scores")
