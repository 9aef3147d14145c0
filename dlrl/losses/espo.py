"""ESPO: PPO's clipped ratio of whole sequences, per token of the canvas.

The ratio is exp((B - B_old) / L) of ELBOs B, the KL an estimate per token.
Source: arXiv 2512.03759. Without a KL it is GSPO (arXiv 2507.18071) on ELBOs.
EBPO (arXiv 2602.08676) takes the ratio of whole likelihoods, L = 1, from noise
levels that are fixed.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib


def espo(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array, *,
  length: float | jax.Array, clip: ratio_lib.Clip,
  ref_score: jax.Array | None = None, kl_coef: float = 0.0, kl: str = "k2",
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss; average it over responses.

  Args:
    score: [n, b] fp32, sums over tokens.
    old_score: [n, b], the same draws scored by the rollout's parameters.
    advantage: [b].
    length: tokens of the canvas, scalar or [b].
    clip: how far the ratio counts below and above 1.
    ref_score: [n, b], the same draws scored by the reference; needed for a KL.
    kl_coef: factor on the KL per token.
    kl: its estimator, `k1`, `k2` or `k3`; the paper takes k2.

  Returns:
    The loss [b] and metrics [b]: `ratio`, `clip` and, with a reference, `kl`.

  Raises:
    ValueError: a KL without a reference, or an unknown estimator.
  """
  if kl_coef and ref_score is None:
    raise ValueError("kl_coef is set, but ref_score is not given")
  means = jax.tree.map(
    lambda x: jnp.mean(x, 0), (score, old_score, ref_score))
  return _outer(means, advantage, length, clip, kl_coef, kl)


def espo_objective(
  clip_low: float = 0.2, clip_high: float = 0.2, kl_coef: float = 0.0,
  kl: str = "k2",
) -> objective.Objective:
  """ESPO through the mean scores; L is the width of the canvas."""
  def outer(means, rows):
    return _outer(means, rows.advantage, rows.valid.shape[-1],
                  (clip_low, clip_high), kl_coef, kl)

  return objective.Joint(
    _scores, outer, skips_zero=not kl_coef, needs_ref=bool(kl_coef))


def ebpo_objective(
  clip_low: float = 0.2, clip_high: float = 0.2
) -> objective.Objective:
  """EBPO's clipped ratio of the scores as they are."""
  def outer(means, rows):
    return _outer(
      means, rows.advantage, 1, (clip_low, clip_high), 0.0, "k2")

  return objective.Joint(_scores, outer, takes_norm=True)


def _scores(draw, rows):
  del rows
  return jax.tree.map(
    draw.score, (draw.logps, draw.old_logps, draw.ref_logps))


def _outer(means, advantage, length, clip, kl_coef, kl):
  score, old_score, ref_score = means
  ratio = jnp.exp((score - jax.lax.stop_gradient(old_score)) / length)
  term, flat = ratio_lib.clipped(ratio, advantage, clip)
  metrics = {"ratio": ratio, "clip": flat.astype(jnp.float32)}
  if ref_score is None:
    return -term, metrics
  penalty = ratio_lib.kl(score, ref_score, kl) / length
  return -term + kl_coef * penalty, metrics | {"kl": penalty}
