"""What ties a loss to Monte-Carlo draws: a statistic to sum, a function on top.

A *separable* loss is a mean over draws of something that one draw determines;
its gradient needs one pass over the draws. A *joint* one is a function `outer`
of the mean over draws of a statistic; it takes a second forward pass. Either
way no draw's activations outlive the draw (`dlrl.diffusion.montecarlo`).
"""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

Metrics = dict[str, jax.Array]  # per response, [b]


class Scored(NamedTuple):
  """One masked copy of each response, scored.

  Attributes:
    logps: [b, t] fp32, log-probs of the true tokens; zero where not masked.
    old_logps: [b, t], by the parameters that made the rollout; constants.
    ref_logps: [b, t], by the reference parameters; constants, or None.
    mask: [b, t] bool, what the model had to predict.
    weight: [b, t] fp32, of the forward process, over the norm of the scores.
  """

  logps: jax.Array
  old_logps: jax.Array
  ref_logps: jax.Array | None
  mask: jax.Array
  weight: jax.Array

  def score(self, logps: jax.Array) -> jax.Array:
    """The draw's ELBO estimate from some log-probs, [b]."""
    return jnp.sum(logps * self.weight, -1)


class Responses(NamedTuple):
  """The responses.

  Attributes:
    advantage: [b] fp32.
    valid: [b, t] bool, the tokens that count.
    tokens: [b] fp32, the mean number of such tokens over the whole batch, the
      same in every row: what makes a mean over rows one over tokens.
  """

  advantage: jax.Array
  valid: jax.Array
  tokens: jax.Array


class Separable(NamedTuple):
  """A loss that is a mean over draws.

  Attributes:
    loss: one draw's loss [b] and metrics; both are averaged over draws.
    skips_zero: rows without an advantage have no gradient.
    takes_norm: scores may be per token; else they have to be plain sums.
    needs_ref: there is a KL to the reference policy.
    together: 1, rows have nothing to do with each other.
  """

  loss: Callable[[Scored, Responses], tuple[jax.Array, Metrics]]
  skips_zero: bool = True
  takes_norm: bool = False
  needs_ref: bool = False
  together: int = 1


class Joint(NamedTuple):
  """A loss that is a function of means over draws.

  Attributes:
    statistic: one draw's numbers, a tree of [b, ...], averaged over draws.
    outer: their means to the loss [b] and metrics.
    skips_zero: rows without an advantage have no gradient.
    takes_norm: scores may be per token; else they have to be plain sums.
    needs_ref: there is a KL to the reference policy.
    together: rows that `outer` takes as one: it sees whole runs of so many.
  """

  statistic: Callable[[Scored, Responses], Any]
  outer: Callable[[Any, Responses], tuple[jax.Array, Metrics]]
  skips_zero: bool = True
  takes_norm: bool = False
  needs_ref: bool = False
  together: int = 1


Objective = Separable | Joint
