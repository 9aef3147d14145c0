"""StableDRL: clipped, self-normalised weights on the gradients of a group.

A ratio of ELBO estimates is noisy, and PPO's clip does not limit it where it
makes an objective worse. StableDRL clips it for both signs of the advantage and
divides it by its sum over the group, so that the update is a convex combination
of the responses' gradients, times their advantages. Source: arXiv 2603.06743,
of which only the abstract was available. Two choices are our reading: the
weights are constants (from "convex hull"), and the ratio is per token (as in
ESPO).
"""

import jax
import jax.numpy as jnp

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.losses import ratio as ratio_lib
from dlrl.strict import shapes


def stable_drl(
  score: jax.Array, old_score: jax.Array, advantage: jax.Array, *,
  length: float | jax.Array, clip: ratio_lib.Clip, group_size: int,
) -> objective.LossAndMetrics:
  """The loss; average it over responses.

  Args:
    score: [n, b] fp32, sums over tokens; the rows of a group are contiguous.
    old_score: [n, b] fp32, the same draws under the rollout's parameters.
    advantage: [b] fp32.
    length: tokens of the canvas, scalar or [b].
    clip: how far the ratio counts below and above 1.
    group_size: responses per prompt; divides b.

  Returns:
    The loss [b] and metrics [b]: `ratio`, and `clip`, 1 where it is clipped.
  """
  shapes.require(
    "stable_drl", score=(score, "nb"), old_score=(old_score, "nb"),
    advantage=(advantage, "b"), length=(length, "|b"))
  means = jax.tree.map(
    objective.over_draws, floats.wide(score, old_score))
  return _outer(means, advantage, length, clip, group_size)


def stable_drl_objective(
  clip_low: float = 0.2, clip_high: float = 0.2, group_size: int = 8
) -> objective.Joint:
  """StableDRL as a function of the mean scores; L is the canvas width."""
  return objective.Joint(
    lambda draw, rows: (draw.score(draw.logps), draw.score(draw.old_logps)),
    lambda means, rows: _outer(
      means, rows.advantage, rows.valid.shape[-1], (clip_low, clip_high),
      group_size),
    together=group_size, others="scores")


def _outer(
  means: tuple[jax.Array, jax.Array], advantage: jax.Array,
  length: float | jax.Array, clip: ratio_lib.Clip, group_size: int,
) -> objective.LossAndMetrics:
  *means, advantage, length = floats.wide(*means, advantage, length)
  score, old_score = (x / length for x in means)
  ratio = floats.exp(jax.lax.stop_gradient(score) - old_score)
  weight = jnp.clip(ratio, *ratio_lib.bounds(clip))
  # Divided by the group's mean, not its sum: the loss is averaged over
  # responses, so that on-policy all weights are 1.
  groups = weight.reshape(-1, group_size)
  # With a clip of 1 below, all the weights of a group can be zero.
  mean = jnp.mean(groups, -1, keepdims=True)
  share = groups / jnp.where(mean > 0, mean, 1.0)
  loss = -jax.lax.stop_gradient(share.reshape(-1)) * advantage * score
  return loss, {
    "ratio": ratio, "clip": floats.wide(weight != ratio)}
