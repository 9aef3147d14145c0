"""wd1: likelihoods weighted by softmaxes of the advantages, without a ratio.

Within a group, w+ = softmax(psi A) pulls a likelihood up and w- = softmax(-psi
A) pushes it down. Source: arXiv 2507.08838. The weights depend on the rewards
alone: `advantages.softmax_weights` makes them in an advantage's place, and
what is left of the loss is `elbo_reinforce`.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import advantages


def wd1(
  logps: jax.Array, advantage: jax.Array, mask: jax.Array, *,
  group_size: int, psi: float = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss; its mean over responses is the mean over groups of the paper's.

  Args:
    logps: [b, t] or [n, b, t] fp32; summed over tokens, averaged over draws.
    advantage: [b], groups contiguous; centred rewards in the paper.
    mask: [b, t] or [n, b, t] bool, the tokens that count.
    group_size: responses per group.
    psi: sharpness of the softmaxes.

  Returns:
    The loss [b] and metrics [b]: `weight`, what the likelihood is multiplied
    by.
  """
  weight = advantages.softmax_weights(advantage, group_size, psi)
  total = jnp.sum(jnp.where(mask, logps, 0.0), -1)
  total = jnp.mean(total.reshape(-1, total.shape[-1]), 0)
  return -weight * total, {"weight": weight}
