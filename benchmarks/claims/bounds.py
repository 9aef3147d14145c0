"""BGPO with one of its two bounds for every sign: the paper's ablation.

The paper bounds exp(mean_j d_j) A from below by Taylor's (1 + d_j) A where A is
positive and by Jensen's exp(d_j) A where it is negative. With the other sign,
each is an upper bound.
"""

import jax

from dlrl.losses import floats
from dlrl.losses import objective


def taylor() -> objective.Separable:
  """(1 + d_j) A for every A."""
  return objective.Separable(
    lambda draw, rows: (-(1 + _delta(draw)) * rows.advantage, {}),
    takes_norm=True, others="scores")


def jensen() -> objective.Separable:
  """exp(d_j) A for every A."""
  return objective.Separable(
    lambda draw, rows: (-floats.exp(_delta(draw)) * rows.advantage, {}),
    takes_norm=True, others="scores")


def _delta(draw: objective.Scored) -> jax.Array:
  return draw.score(draw.logps) - jax.lax.stop_gradient(
    draw.score(draw.old_logps))
