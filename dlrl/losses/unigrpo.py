"""UniGRPO: the clipped token loss, averaged over a draw's masked tokens.

Source: arXiv 2505.15809, Sec. 4.3 (masks of a random ratio, no 1/t), with the
advantage of GRPO. TraceRL (arXiv 2509.06949) has the same loss on slices of the
decode trace, with the rollout's parameters as the reference of the KL.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib
from dlrl.losses.diffu_grpo import token_terms
from dlrl.strict import shapes


def unigrpo(
  logps: jax.Array, old_logps: jax.Array, advantage: jax.Array,
  mask: jax.Array, *, clip: ratio_lib.Clip,
  ref_logps: jax.Array | None = None, kl_coef: float = 0.0,
) -> objective.LossAndMetrics:
  """The loss; average it over responses.

  Args:
    logps: [n, b, t] fp32.
    old_logps: [n, b, t] fp32, under the rollout's parameters; a constant.
    advantage: [b] fp32.
    mask: [n, b, t] bool, the valid tokens that a draw masked.
    clip: how far the ratio counts below and above 1.
    ref_logps: [n, b, t] fp32, under the reference; required for a KL.
    kl_coef: factor of the k3 estimate of the KL to the reference.

  Returns:
    The loss [b] and metrics [b]: `clip`, the share of clipped tokens, and, with
    a reference, `kl`.

  Raises:
    ValueError: `kl_coef` is set, but `ref_logps` is None.
  """
  ratio_lib.require_reference("unigrpo", "ref_logps", ref_logps, kl_coef)
  shapes.require(
    "unigrpo", logps=(logps, "nbt"), old_logps=(old_logps, "nbt"),
    advantage=(advantage, "b"), mask=(mask, "nbt"),
    ref_logps=(ref_logps, "nbt"))
  terms = token_terms(
    logps, old_logps, advantage, mask, clip, ref_logps, kl_coef)
  return objective.reduce(
    terms, lambda x: objective.over_draws(_masked_mean(x, mask)))


def trace_rl(
  logps: jax.Array, old_logps: jax.Array, advantage: jax.Array,
  mask: jax.Array, *, clip: ratio_lib.Clip, kl_coef: float = 0.0,
) -> objective.LossAndMetrics:
  """TraceRL's policy loss: `unigrpo` with the rollout as its own reference.

  n counts slices of the decode trace; `mask` has the tokens that the denoising
  steps of a slice committed. All else: see `unigrpo`.
  """
  shapes.require(
    "trace_rl", logps=(logps, "nbt"), old_logps=(old_logps, "nbt"),
    advantage=(advantage, "b"), mask=(mask, "nbt"))
  return unigrpo(logps, old_logps, advantage, mask, clip=clip,
                 ref_logps=old_logps, kl_coef=kl_coef)


def unigrpo_objective(
  clip_low: float = 0.2, clip_high: float = 0.2, kl_coef: float = 0.0
) -> objective.Separable:
  """UniGRPO, one draw at a time."""
  return _objective(
    (clip_low, clip_high), kl_coef, lambda draw: draw.ref_logps
    )._replace(needs_ref=bool(kl_coef))


def trace_rl_objective(
  clip_low: float = 0.2, clip_high: float = 0.2, kl_coef: float = 0.01
) -> objective.Separable:
  """TraceRL's policy loss, one slice of the decode trace at a time."""
  return _objective(
    (clip_low, clip_high), kl_coef, lambda draw: draw.old_logps)


def _objective(
  clip: ratio_lib.Clip, kl_coef: float,
  reference: Callable[[objective.Scored], jax.Array | None],
) -> objective.Separable:
  def loss(
    draw: objective.Scored, rows: objective.Responses
  ) -> objective.LossAndMetrics:
    mask = (draw.weight > 0) & rows.valid
    terms = token_terms(draw.logps, draw.old_logps, rows.advantage, mask, clip,
                        reference(draw), kl_coef)
    return objective.reduce(terms, lambda x: _masked_mean(x, mask))

  return objective.Separable(loss, skips_zero=not kl_coef)


def _masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
  # Divides by at least 1: zero without a masked token, not 0/0.
  return jnp.sum(jnp.where(mask, x, 0.0), -1) / jnp.maximum(
    jnp.sum(mask, -1, dtype=x.dtype), 1)
