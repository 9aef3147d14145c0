"""GDSD: each draw's change of log-likelihood regressed on the advantage.

The target is a teacher proportional to p_old exp(psi A): the change since the
rollout, clamped and per token, should be psi A. Source: arXiv 2605.29398 and
its published code (the variant without centred logits, and a KL to the
reference, here per token as in ESPO).
"""

import jax
import jax.numpy as jnp

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib
from dlrl.strict import shapes


def gdsd(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array, *,
  length: float | jax.Array, clip: float, psi: float = 1.0,
  ref_score: jax.Array | None = None, kl_coef: float = 0.0,
) -> objective.LossAndMetrics:
  """The loss; average it over responses.

  Args:
    score: [n, b] fp32, sums of log-probs of the masked tokens.
    old_score: [n, b] fp32, the same draws under the rollout's parameters.
    advantage: [b] fp32.
    length: tokens of the canvas, scalar or [b].
    clip: how far the ratio of likelihoods counts below and above 1.
    psi: inverse temperature of the teacher.
    ref_score: [n, b] fp32, the same draws under the reference; required for a
      KL.
    kl_coef: factor of the k2 estimate of the KL to the reference, per token.

  Returns:
    The loss [b] and metrics [b]: with a reference, `kl`.

  Raises:
    ValueError: `kl_coef` is set, but `ref_score` is None.
  """
  ratio_lib.require_reference("gdsd", "ref_score", ref_score, kl_coef)
  shapes.require(
    "gdsd", score=(score, "nb"), old_score=(old_score, "nb"),
    advantage=(advantage, "b"), length=(length, "|b"),
    ref_score=(ref_score, "nb"))
  score, old_score, advantage, ref_score, length = floats.wide(
    score, old_score, advantage, ref_score, length)
  if jnp.ndim(length):
    length = jnp.asarray(length)[None]
  delta = score - jax.lax.stop_gradient(old_score)
  # Clamped in log space: exp(delta) within 1 - clip..1 + clip.
  delta = jnp.clip(delta, jnp.log1p(-clip), jnp.log1p(clip))
  terms = (delta / length - psi * advantage[None]) ** 2
  if ref_score is None:
    return objective.over_draws(terms), {}
  kl = ratio_lib.kl(score, ref_score, "k2") / length
  return objective.over_draws(terms + kl_coef * kl), {
    "kl": objective.over_draws(kl)}


def gdsd_objective(
  clip: float = 4e-4, psi: float = 1.0, kl_coef: float = 0.0
) -> objective.Separable:
  """GDSD, one draw at a time; L is the width of the canvas."""
  def loss(
    draw: objective.Scored, rows: objective.Responses
  ) -> objective.LossAndMetrics:
    score, old_score, ref_score = jax.tree.map(
      lambda logps: draw.score(logps)[None],
      (draw.logps, draw.old_logps, draw.ref_logps))
    return gdsd(
      score, old_score, rows.advantage, length=rows.valid.shape[-1],
      clip=clip, psi=psi, ref_score=ref_score, kl_coef=kl_coef)

  # skips_zero is False: a row with an advantage of zero is pulled back to the
  # rollout's policy.
  return objective.Separable(
    loss, skips_zero=False, needs_ref=bool(kl_coef), others="scores")
