"""diffu-GRPO: PPO's clipped ratio token by token, averaged over all tokens.

d1 (arXiv 2504.12216) takes the log-probs from one pass over a fully masked
completion. The same loss on other draws is CJ-GRPO (arXiv 2509.23924: every
token scored at the denoising step that committed it) and JustGRPO (arXiv
2601.15165: every token given those to its left, without a KL).
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib


def token_terms(
  logps: jax.Array, old_logps: jax.Array, advantage: jax.Array,
  clip: ratio_lib.Clip, ref_logps: jax.Array | None, kl_coef: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss of every token, and metrics of every token.

  Args:
    logps: [..., b, t] fp32.
    old_logps: of the rollout's parameters, the same shape; a constant.
    advantage: [b].
    clip: of the ratio.
    ref_logps: of the reference, the same shape, or None without a KL.
    kl_coef: factor on k3.
  """
  ratio = jnp.exp(logps - jax.lax.stop_gradient(old_logps))
  by_token = jnp.broadcast_to(advantage[:, None], ratio.shape)
  term, flat = ratio_lib.clipped(ratio, by_token, clip)
  metrics = {"clip": flat.astype(jnp.float32)}
  if ref_logps is None:
    return -term, metrics
  kl = ratio_lib.kl(logps, ref_logps, "k3")
  return -term + kl_coef * kl, metrics | {"kl": kl}


def diffu_grpo(
  logps: jax.Array, old_logps: jax.Array, advantage: jax.Array,
  mask: jax.Array, *, clip: ratio_lib.Clip,
  ref_logps: jax.Array | None = None, kl_coef: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss; its mean over responses is the mean over all tokens.

  Args:
    logps: [b, t] or [n, b, t] fp32.
    old_logps: of the rollout's parameters, the same shape; a constant.
    advantage: [b].
    mask: [b, t] or [n, b, t] bool, the tokens that count.
    clip: how far the ratio counts below and above 1.
    ref_logps: of the reference, the shape of `logps`; needed for a KL.
    kl_coef: factor on k3 of the reference.

  Returns:
    The loss [b] and metrics [b]: `clip`, the share of tokens that are clipped,
    and `kl`, both so that their means over responses are means over tokens.

  Raises:
    ValueError: a KL without a reference.
  """
  if kl_coef and ref_logps is None:
    raise ValueError("kl_coef is set, but ref_logps is not given")
  shape = (-1, *logps.shape[-2:])
  mask = jnp.broadcast_to(mask, logps.shape).reshape(shape)
  terms, metrics = token_terms(
    logps, old_logps, advantage, clip, ref_logps, kl_coef)
  tokens = jnp.maximum(jnp.sum(mask) / mask[0, :, 0].size, 1e-9)

  def reduce(x):
    return jnp.sum(jnp.where(mask, x.reshape(shape), 0.0), (0, 2)) / tokens

  return reduce(terms), {k: reduce(v) for k, v in metrics.items()}


def diffu_grpo_objective(
  clip_low: float = 0.5, clip_high: float = 0.5, kl_coef: float = 0.0
) -> objective.Objective:
  """The token loss of one draw; weights as of the forward process.

  A draw that scores each token once has weight 1, n draws that share the tokens
  among them n: then the mean over draws is the sum over tokens.
  """
  def loss(draw, rows):
    terms, metrics = token_terms(
      draw.logps, draw.old_logps, rows.advantage, (clip_low, clip_high),
      draw.ref_logps, kl_coef)
    weight = jnp.where(rows.valid, draw.weight, 0.0) / rows.tokens[:, None]
    return jnp.sum(terms * weight, -1), {
      k: jnp.sum(v * weight, -1) for k, v in metrics.items()}

  return objective.Separable(
    loss, skips_zero=not kl_coef, needs_ref=bool(kl_coef))
