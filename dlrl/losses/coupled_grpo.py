"""coupled-GRPO: the clipped token loss on log-probs of complementary masks.

Three draws: all tokens masked, a random part, the remaining part. A token's
log-prob is the mean of its log-prob in the first draw and of its log-prob in
the one of the other two that masked it, divided by that mask's ratio: every
token is predicted twice. The policy ratio is taken of this mean, so the loss is
joint. Source: arXiv 2506.20639.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib
from dlrl.losses.diffu_grpo import diffu_grpo
from dlrl.losses.diffu_grpo import token_terms
from dlrl.strict import shapes


def coupled_grpo(
  logps: jax.Array, old_logps: jax.Array, weight: jax.Array,
  advantage: jax.Array, mask: jax.Array, *, clip: ratio_lib.Clip,
  ref_logps: jax.Array | None = None, kl_coef: float = 0.0,
) -> objective.LossAndMetrics:
  """The loss; its mean over responses is the mean over all tokens.

  Args:
    logps: [n, b, t] fp32, zero where a draw did not mask a token.
    old_logps: [n, b, t] fp32, under the rollout's parameters; a constant.
    weight: [n, b, t] fp32, weights of the forward process; weighted log-probs
      are averaged over draws.
    advantage: [b] fp32.
    mask: [b, t] bool, the tokens that count.
    clip: how far the ratio counts below and above 1.
    ref_logps: [n, b, t] fp32, under the reference; required for a KL.
    kl_coef: factor of the k3 estimate of the KL to the reference.

  Returns:
    The loss [b] and metrics [b], see `diffu_grpo`.

  Raises:
    ValueError: `kl_coef` is set, but `ref_logps` is None.
  """
  shapes.require(
    "coupled_grpo", logps=(logps, "nbt"), old_logps=(old_logps, "nbt"),
    weight=(weight, "nbt"), advantage=(advantage, "b"), mask=(mask, "bt"),
    ref_logps=(ref_logps, "nbt"))

  def mean(x: jax.Array) -> jax.Array:
    return objective.over_draws(floats.weighted(x, weight))

  return diffu_grpo(
    mean(logps), mean(old_logps), advantage, mask, clip=clip,
    ref_logps=None if ref_logps is None else mean(ref_logps), kl_coef=kl_coef)


def coupled_grpo_objective(
  clip_low: float = 0.5, clip_high: float = 0.5, kl_coef: float = 0.0
) -> objective.Joint:
  """coupled-GRPO as a function of the tokens' mean log-probs."""
  def outer(
    means: tuple[jax.Array, jax.Array, jax.Array | None],
    rows: objective.Responses,
  ) -> objective.LossAndMetrics:
    terms = token_terms(
      *means[:2], rows.advantage, rows.valid, (clip_low, clip_high), means[2],
      kl_coef)
    # One mean over all tokens of the batch: a long response counts for more
    # than a short one, as in the published code.
    tokens = floats.wide(rows.tokens)[:, None]
    return objective.reduce(terms, lambda x: jnp.sum(
      x * (rows.valid.astype(x.dtype) / tokens.astype(x.dtype)), -1))

  return objective.Joint(
    lambda draw, rows: jax.tree.map(
      lambda x: floats.weighted(x, jnp.where(rows.valid, draw.weight, 0.0)),
      (draw.logps, draw.old_logps, draw.ref_logps)),
    outer, skips_zero=not kl_coef, needs_ref=bool(kl_coef), others="means")
