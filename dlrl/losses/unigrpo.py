"""UniGRPO: the clipped token loss, averaged over a draw's masked tokens.

Source: arXiv 2505.15809, Sec. 4.3 (masks of a random ratio, no 1/t), with the
advantage as in GRPO. TraceRL (arXiv 2509.06949) is the same on slices of the
decode trace, with the rollout's parameters as the reference of the KL.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib
from dlrl.losses.diffu_grpo import token_terms


def unigrpo(
  logps: jax.Array, old_logps: jax.Array, advantage: jax.Array,
  mask: jax.Array, *, clip: ratio_lib.Clip,
  ref_logps: jax.Array | None = None, kl_coef: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss; average it over responses.

  Args:
    logps: [n, b, t] fp32.
    old_logps: of the rollout's parameters, the same shape; a constant.
    advantage: [b].
    mask: [n, b, t] bool, the tokens that were masked and count.
    clip: how far the ratio counts below and above 1.
    ref_logps: of the reference, the shape of `logps`; needed for a KL.
    kl_coef: factor on k3 of the reference.

  Returns:
    The loss [b] and metrics [b]: `clip` and, with a reference, `kl`.

  Raises:
    ValueError: a KL without a reference.
  """
  if kl_coef and ref_logps is None:
    raise ValueError("kl_coef is set, but ref_logps is not given")
  terms, metrics = token_terms(
    logps, old_logps, advantage, clip, ref_logps, kl_coef)

  def reduce(x):
    return jnp.mean(_masked_mean(x, mask), 0)

  return reduce(terms), {k: reduce(v) for k, v in metrics.items()}


def trace_rl(
  logps: jax.Array, old_logps: jax.Array, advantage: jax.Array,
  mask: jax.Array, *, clip: ratio_lib.Clip, kl_coef: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """TraceRL's policy loss: `unigrpo` with the rollout as its own reference.

  Args:
    logps: [n, b, t] fp32, of n slices of the decode trace.
    old_logps: of the rollout's parameters, the same shape; a constant.
    advantage: [b].
    mask: [n, b, t] bool, the tokens that a slice's steps committed.
    clip: how far the ratio counts below and above 1.
    kl_coef: factor on k3 of the rollout's parameters.

  Returns:
    The loss [b] and metrics [b], `clip` and `kl`.
  """
  return unigrpo(logps, old_logps, advantage, mask, clip=clip,
                 ref_logps=old_logps, kl_coef=kl_coef)


def unigrpo_objective(
  clip_low: float = 0.2, clip_high: float = 0.2, kl_coef: float = 0.0
) -> objective.Objective:
  """UniGRPO, one draw at a time."""
  return _objective(clip_low, clip_high, kl_coef, lambda d: d.ref_logps
                    )._replace(needs_ref=bool(kl_coef))


def trace_rl_objective(
  clip_low: float = 0.2, clip_high: float = 0.2, kl_coef: float = 0.01
) -> objective.Objective:
  """TraceRL's policy loss, one slice of the decode trace at a time."""
  return _objective(clip_low, clip_high, kl_coef, lambda d: d.old_logps)


def _objective(clip_low, clip_high, kl_coef, reference):
  def loss(draw, rows):
    terms, metrics = token_terms(
      draw.logps, draw.old_logps, rows.advantage, (clip_low, clip_high),
      reference(draw), kl_coef)
    mask = (draw.weight > 0) & rows.valid
    return _masked_mean(terms, mask), {
      k: _masked_mean(v, mask) for k, v in metrics.items()}

  return objective.Separable(loss, skips_zero=not kl_coef)


def _masked_mean(x, mask):
  # Nothing masked gives zero, not 0/0.
  return jnp.sum(jnp.where(mask, x, 0.0), -1) / jnp.maximum(
    jnp.sum(mask, -1), 1)
