"""ESPO: PPO's clipped ratio of whole sequences, per token of the canvas.

The ratio is exp((B - B_old) / L) of ELBOs B and the canvas length L, which
keeps it near 1 for long responses; the KL is also per token. Source: arXiv
2512.03759. Without a KL it is GSPO (arXiv 2507.18071) on ELBOs. EBPO (arXiv
2602.08676) takes the ratio of whole likelihoods, L = 1, at fixed noise levels.
"""

import jax

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib
from dlrl.strict import shapes

# Scores [b] under the trained, the rollout's and the reference's parameters.
_Scores = tuple[jax.Array, jax.Array, jax.Array | None]


def espo(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array, *,
  length: float | jax.Array, clip: ratio_lib.Clip,
  ref_score: jax.Array | None = None, kl_coef: float = 0.0, kl: str = "k2",
) -> objective.LossAndMetrics:
  """The loss; average it over responses.

  Args:
    score: [n, b] fp32, sums over tokens.
    old_score: [n, b] fp32, the same draws under the rollout's parameters.
    advantage: [b] fp32.
    length: tokens of the canvas, scalar or [b].
    clip: how far the ratio counts below and above 1.
    ref_score: [n, b] fp32, the same draws under the reference; required for a
      KL.
    kl_coef: factor of the KL per token.
    kl: estimator of the KL, `k1`, `k2` or `k3`; the paper takes k2.

  Returns:
    The loss [b] and metrics [b]: `ratio`; `clip`, 1 where the ratio is clipped;
    and, with a reference, `kl`.

  Raises:
    ValueError: `kl_coef` is set, but `ref_score` is None, or `kl` is unknown.
  """
  ratio_lib.require_reference("espo", "ref_score", ref_score, kl_coef)
  shapes.require(
    "espo", score=(score, "nb"), old_score=(old_score, "nb"),
    advantage=(advantage, "b"), length=(length, "|b"),
    ref_score=(ref_score, "nb"))
  means = jax.tree.map(
    objective.over_draws, floats.wide(score, old_score, ref_score))
  return _outer(means, advantage, length, clip, kl_coef, kl)


def espo_objective(
  clip_low: float = 0.2, clip_high: float = 0.2, kl_coef: float = 0.0,
  kl: str = "k2",
) -> objective.Joint:
  """ESPO as a function of the mean scores; L is the width of the canvas."""
  return objective.Joint(
    _scores,
    lambda means, rows: _outer(
      means, rows.advantage, rows.valid.shape[-1], (clip_low, clip_high),
      kl_coef, kl),
    skips_zero=not kl_coef, needs_ref=bool(kl_coef), others="scores")


def ebpo_objective(
  clip_low: float = 0.2, clip_high: float = 0.2
) -> objective.Joint:
  """EBPO: the clipped ratio of the scores, not divided by a length."""
  return objective.Joint(
    _scores,
    lambda means, rows: _outer(
      means, rows.advantage, 1, (clip_low, clip_high), 0.0, "k2"),
    takes_norm=True, others="scores")


def _scores(draw: objective.Scored, rows: objective.Responses) -> _Scores:
  del rows
  scores: _Scores = jax.tree.map(
    draw.score, (draw.logps, draw.old_logps, draw.ref_logps))
  return scores


def _outer(
  means: _Scores, advantage: jax.Array, length: float | jax.Array,
  clip: ratio_lib.Clip, kl_coef: float, kl: str,
) -> objective.LossAndMetrics:
  *means, advantage, length = floats.wide(*means, advantage, length)
  score, old_score, ref_score = means
  ratio = floats.exp((score - jax.lax.stop_gradient(old_score)) / length)
  term, flat = ratio_lib.clipped(ratio, advantage, clip)
  metrics = {"ratio": ratio, "clip": floats.wide(flat)}
  if ref_score is None:
    return -term, metrics
  penalty = ratio_lib.kl(score, ref_score, kl) / length
  return -term + kl_coef * penalty, metrics | {"kl": penalty}
