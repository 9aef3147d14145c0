"""diffu-GRPO: PPO's clipped ratio token by token, averaged over all tokens.

d1 (arXiv 2504.12216) takes the log-probs from one pass over a fully masked
completion. The same loss on other draws is CJ-GRPO (arXiv 2509.23924: every
token scored at the denoising step that committed it, and steps that have equal
shares of a response) and JustGRPO (arXiv
2601.15165: every token given those to its left, without a KL).
"""

import jax
import jax.numpy as jnp

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib
from dlrl.strict import shapes


def token_terms(
  logps: jax.Array, old_logps: jax.Array, advantage: jax.Array,
  mask: jax.Array, clip: ratio_lib.Clip, ref_logps: jax.Array | None,
  kl_coef: float,
) -> objective.LossAndMetrics:
  """The loss and metrics of every token, [..., b, t]; finite off the mask too.

  Args:
    logps: [..., b, t] fp32.
    old_logps: [..., b, t] fp32, under the rollout's parameters; a constant.
    advantage: [b] fp32.
    mask: bool, broadcastable to `logps`: the tokens that count. Log-probs of
      others may be anything, even -inf.
    clip: how far the ratio counts below and above 1.
    ref_logps: [..., b, t] fp32, under the reference; None without a KL.
    kl_coef: factor of the k3 estimate of the KL to the reference.
  """
  shapes.require(
    "token_terms", logps=(logps, "*bt"), old_logps=(old_logps, "*bt"),
    advantage=(advantage, "b"), ref_logps=(ref_logps, "*bt"))
  logps, old_logps, advantage, ref_logps = floats.wide(
    logps, old_logps, advantage, ref_logps)
  # Here, and not only where tokens are summed: the gradient of a sum would be
  # 0 * NaN at the others.
  mask = jnp.broadcast_to(mask, logps.shape)
  logps, old_logps, ref_logps = jax.tree.map(
    lambda x: jnp.where(mask, x, 0.0), (logps, old_logps, ref_logps))
  ratio = floats.exp(logps - jax.lax.stop_gradient(old_logps))
  by_token = jnp.broadcast_to(advantage[:, None], ratio.shape)
  term, flat = ratio_lib.clipped(ratio, by_token, clip)
  metrics = {"clip": floats.wide(flat)}
  if ref_logps is None:
    return -term, metrics
  kl = ratio_lib.kl(logps, ref_logps, "k3")
  return -term + kl_coef * kl, metrics | {"kl": kl}


def diffu_grpo(
  logps: jax.Array, old_logps: jax.Array, advantage: jax.Array,
  mask: jax.Array, *, clip: ratio_lib.Clip,
  ref_logps: jax.Array | None = None, kl_coef: float = 0.0,
) -> objective.LossAndMetrics:
  """The loss; its mean over responses is the mean over all tokens.

  Args:
    logps: [b, t] or [n, b, t] fp32.
    old_logps: like `logps`, under the rollout's parameters; a constant.
    advantage: [b] fp32.
    mask: [b, t] or [n, b, t] bool, the tokens that count.
    clip: how far the ratio counts below and above 1.
    ref_logps: like `logps`, under the reference; required for a KL.
    kl_coef: factor of the k3 estimate of the KL to the reference.

  Returns:
    The loss [b] and metrics [b]: `clip`, the share of clipped tokens, and, with
    a reference, `kl`. The means of both over responses are means over tokens.

  Raises:
    ValueError: `kl_coef` is set, but `ref_logps` is None.
  """
  ratio_lib.require_reference("diffu_grpo", "ref_logps", ref_logps, kl_coef)
  axes = shapes.of_tokens(logps)
  shapes.require(
    "diffu_grpo", logps=(logps, "bt|nbt"), old_logps=(old_logps, axes),
    advantage=(advantage, "b"), mask=(mask, shapes.up_to(axes)),
    ref_logps=(ref_logps, axes))
  shape = (-1, *logps.shape[-2:])
  mask = jnp.broadcast_to(mask, logps.shape)
  terms = token_terms(
    logps, old_logps, advantage, mask, clip, ref_logps, kl_coef)
  mask = objective.require_draws(mask.reshape(shape))
  tokens = jnp.maximum(
    jnp.sum(mask, dtype=jnp.float32) / logps.shape[-2], 1e-9)
  return objective.reduce(terms, lambda x: jnp.sum(
    jnp.where(mask, x.reshape(shape), 0.0), (0, 2)) / tokens.astype(x.dtype))


def diffu_grpo_objective(
  clip_low: float = 0.5, clip_high: float = 0.5, kl_coef: float = 0.0
) -> objective.Separable:
  """The token loss of one draw, weighted by the forward process.

  A draw that scores each token once has weight 1; n draws that share the tokens
  among them have weight n. The mean over draws is then the sum over tokens.
  """
  def loss(
    draw: objective.Scored, rows: objective.Responses
  ) -> objective.LossAndMetrics:
    terms = token_terms(
      draw.logps, draw.old_logps, rows.advantage,
      (draw.weight != 0) & rows.valid, (clip_low, clip_high),
      draw.ref_logps, kl_coef)
    weight, tokens = floats.wide(draw.weight, rows.tokens)
    weight = jnp.where(rows.valid, weight, 0.0) / tokens[:, None]
    return objective.reduce(
      terms, lambda x: jnp.sum(x * weight.astype(x.dtype), -1))

  return objective.Separable(
    loss, skips_zero=not kl_coef, needs_ref=bool(kl_coef), takes_shares=True)
