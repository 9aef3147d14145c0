"""wd1: likelihoods weighted by softmaxes of the advantages, without a ratio.

Within a group, w+ = softmax(psi A) raises likelihoods and w- = softmax(-psi A)
lowers them. Source: arXiv 2507.08838. The weights depend only on the rewards:
with `advantages.softmax_weights` in the advantage's place, the loss is
`elbo_reinforce`, so that wd1 needs no objective.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import advantages
from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.strict import shapes


def wd1(
  logps: jax.Array, advantage: jax.Array, mask: jax.Array, *,
  group_size: int, psi: float = 1.0,
) -> objective.LossAndMetrics:
  """The loss; its mean over responses is the paper's mean over groups.

  Args:
    logps: [b, t] or [n, b, t] fp32; summed over tokens, averaged over draws.
    advantage: [b] fp32, groups contiguous; centred rewards in the paper.
    mask: [b, t] or [n, b, t] bool, the tokens that count.
    group_size: responses per group; divides b.
    psi: sharpness of the softmaxes.

  Returns:
    The loss [b] and metrics [b]: `weight`, the factor of the log-likelihood.
  """
  shapes.require(
    "wd1", logps=(logps, "bt|nbt"), advantage=(advantage, "b"),
    mask=(mask, shapes.up_to(shapes.of_tokens(logps))))
  logps, advantage = floats.wide(logps, advantage)
  weight = advantages.softmax_weights(advantage, group_size, psi)
  mask = jnp.broadcast_to(mask, logps.shape)
  total = jnp.sum(jnp.where(mask, logps, 0.0), -1)
  total = objective.over_draws(total.reshape(-1, total.shape[-1]))
  return -weight * total, {"weight": weight}
