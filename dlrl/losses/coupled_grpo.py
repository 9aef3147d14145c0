"""coupled-GRPO: the clipped token loss on log-probs of complementary masks.

Three draws: everything masked, a random part, the rest. A token's log-prob is
the mean of what the first says and of what the one of the other two that masked
it says, over that mask's ratio: all tokens have two predictions. The ratio is
taken of this mean, so the draws are joint. Source: arXiv 2506.20639.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib
from dlrl.losses.diffu_grpo import diffu_grpo
from dlrl.losses.diffu_grpo import token_terms


def coupled_grpo(
  logps: jax.Array, old_logps: jax.Array, weight: jax.Array,
  advantage: jax.Array, mask: jax.Array, *, clip: ratio_lib.Clip,
  ref_logps: jax.Array | None = None, kl_coef: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss; its mean over responses is the mean over all tokens.

  Args:
    logps: [n, b, t] fp32, zero where a draw did not mask a token.
    old_logps: of the rollout's parameters, the same shape; a constant.
    weight: [n, b, t] fp32, of the forward process; averaged over draws.
    advantage: [b].
    mask: [b, t] bool, the tokens that count.
    clip: how far the ratio counts below and above 1.
    ref_logps: of the reference, the shape of `logps`; needed for a KL.
    kl_coef: factor on k3 of the reference.

  Returns:
    The loss [b] and metrics [b], as of `diffu_grpo`.
  """
  def mean(x):
    return None if x is None else jnp.mean(x * weight, 0)

  return diffu_grpo(
    mean(logps), mean(old_logps), advantage, mask, clip=clip,
    ref_logps=mean(ref_logps), kl_coef=kl_coef)


def coupled_grpo_objective(
  clip_low: float = 0.5, clip_high: float = 0.5, kl_coef: float = 0.0
) -> objective.Objective:
  """coupled-GRPO through the tokens' mean log-probs."""
  def statistic(draw, rows):
    del rows
    return jax.tree.map(
      lambda x: x * draw.weight,
      (draw.logps, draw.old_logps, draw.ref_logps))

  def outer(means, rows):
    logps, old_logps, ref_logps = means
    terms, metrics = token_terms(
      logps, old_logps, rows.advantage, (clip_low, clip_high), ref_logps,
      kl_coef)
    weight = rows.valid / rows.tokens[:, None]
    return jnp.sum(terms * weight, -1), {
      k: jnp.sum(v * weight, -1) for k, v in metrics.items()}

  return objective.Joint(
    statistic, outer, skips_zero=not kl_coef, needs_ref=bool(kl_coef))
