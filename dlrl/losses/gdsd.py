"""GDSD: each draw's change of log-likelihood regressed on the advantage.

The target is a teacher proportional to p_old exp(psi A): the change since the
rollout, clamped and per token, should be psi A. Source: arXiv 2605.29398 and
its published code (the variant without centred logits).
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective


def gdsd_statistic(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array, *,
  length: float | jax.Array, clip: float, psi: float,
) -> jax.Array:
  """One draw's squared error; every argument broadcasts to `score`."""
  delta = score - jax.lax.stop_gradient(old_score)
  delta = jnp.clip(delta, jnp.log1p(-clip), jnp.log1p(clip))
  return (delta / length - psi * advantage) ** 2


def gdsd(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array, *,
  length: float | jax.Array, clip: float, psi: float = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss; average it over responses.

  Args:
    score: [n, b] fp32, sums of log-probs of the masked tokens.
    old_score: [n, b], the same draws scored by the rollout's parameters.
    advantage: [b].
    length: tokens of the canvas, scalar or [b].
    clip: how far the ratio of likelihoods counts below and above 1.
    psi: inverse temperature of the teacher.

  Returns:
    The loss [b] and no metrics.
  """
  terms = gdsd_statistic(
    score, old_score, advantage[None], length=length, clip=clip, psi=psi)
  return jnp.mean(terms, 0), {}


def gdsd_objective(
  clip: float = 4e-4, psi: float = 1.0
) -> objective.Objective:
  """GDSD, one draw at a time; L is the width of the canvas."""
  def loss(draw, rows):
    return gdsd_statistic(
      draw.score(draw.logps), draw.score(draw.old_logps), rows.advantage,
      length=rows.valid.shape[-1], clip=clip, psi=psi), {}

  # Rows without an advantage hold the policy where it was.
  return objective.Separable(loss, skips_zero=False)
