"""VRPO: preference optimization (DPO) with ELBOs as log-likelihoods.

-log sigmoid(beta (change of the chosen response's ELBO - that of the rejected
one's)), changes since the reference. What reduces its variance is in the draws:
many noise levels with one mask each, the same for policy and reference. Source:
arXiv 2505.19223.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective


def vrpo_offline(
  chosen: jax.Array, rejected: jax.Array, ref_chosen: jax.Array,
  ref_rejected: jax.Array, *, beta: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss; average it over pairs.

  Args:
    chosen: [n, b] fp32, scores of the better responses.
    rejected: [n, b], of the worse ones.
    ref_chosen: [n, b], the draws of `chosen` scored by the reference.
    ref_rejected: [n, b], the draws of `rejected` scored by the reference.
    beta: strength of the preference; 0.2 in the paper.

  Returns:
    The loss [b] and metrics [b]: `margin`, and `right`, 1 where it is positive.
  """
  return vrpo_offline_outer(
    jnp.mean(chosen - jax.lax.stop_gradient(ref_chosen), 0),
    jnp.mean(rejected - jax.lax.stop_gradient(ref_rejected), 0), beta=beta)


def vrpo_offline_outer(
  chosen: jax.Array, rejected: jax.Array, *, beta: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`vrpo_offline` of the mean changes of the scores, [b] each."""
  margin = beta * (chosen - rejected)
  return jax.nn.softplus(-margin), {
    "margin": margin, "right": (margin > 0).astype(jnp.float32)}


def vrpo_offline_objective(beta: float = 0.2) -> objective.Objective:
  """VRPO on pairs of rows, 2i and 2i + 1; the greater advantage is chosen.

  A row's loss is that of its pair, and 0 where both are as good.
  """
  def statistic(draw, rows):
    del rows
    return draw.score(draw.logps), draw.score(draw.ref_logps)

  def outer(means, rows):
    score, ref_score = means
    change = (score - jax.lax.stop_gradient(ref_score)).reshape(-1, 2)
    first, second = rows.advantage.reshape(-1, 2).T
    sign = jnp.sign(first - second)
    loss, metrics = vrpo_offline_outer(
      sign * change[:, 0], sign * change[:, 1], beta=beta)
    return jax.tree.map(
      lambda x: jnp.repeat(jnp.where(sign == 0, 0.0, x), 2), (loss, metrics))

  return objective.Joint(statistic, outer, needs_ref=True, together=2)
