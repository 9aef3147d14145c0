"""StableDRL: clipped, self-normalised weights on the gradients of a group.

A ratio of ELBO estimates is noisy, and PPO's clip lets it pass where it makes
an objective worse. Here it is clipped for both signs of the advantage and
divided by its sum over the group; so weighted, the update is a convex
combination of the responses' gradients, times their advantages. Source: arXiv
2603.06743, from its abstract: that the weights are constants is a reading of
"convex hull", and that the ratio is per token follows ESPO.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib


def stable_drl(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array, *,
  length: float | jax.Array, clip: ratio_lib.Clip, group_size: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss; average it over responses.

  Args:
    score: [n, b] fp32, sums over tokens; the rows of a group are contiguous.
    old_score: [n, b], the same draws scored by the rollout's parameters.
    advantage: [b].
    length: tokens of the canvas, scalar or [b].
    clip: how far the ratio counts below and above 1.
    group_size: responses per prompt.

  Returns:
    The loss [b] and metrics [b]: `ratio`, and `clip`, 1 where it is clipped.
  """
  means = jnp.mean(score, 0), jnp.mean(old_score, 0)
  return _outer(means, advantage, length, clip, group_size)


def stable_drl_objective(
  clip_low: float = 0.2, clip_high: float = 0.2, group_size: int = 8
) -> objective.Objective:
  """StableDRL through the mean scores; L is the width of the canvas."""
  def statistic(draw, rows):
    del rows
    return draw.score(draw.logps), draw.score(draw.old_logps)

  def outer(means, rows):
    return _outer(means, rows.advantage, rows.valid.shape[-1],
                  (clip_low, clip_high), group_size)

  return objective.Joint(statistic, outer, together=group_size)


def _outer(means, advantage, length, clip, group_size):
  low, high = clip if isinstance(clip, tuple) else (clip, clip)
  score, old_score = (x / length for x in means)
  ratio = jnp.exp(jax.lax.stop_gradient(score) - old_score)
  weight = jnp.clip(ratio, 1 - low, 1 + high)
  groups = weight.reshape(-1, group_size)
  share = groups / jnp.mean(groups, -1, keepdims=True)
  loss = -jax.lax.stop_gradient(share.reshape(-1)) * advantage * score
  return loss, {
    "ratio": ratio, "clip": (weight != ratio).astype(jnp.float32)}
