"""SPG, the sandwiched policy gradient: bounds from both sides by sign.

Where A > 0 the lower bound of the log-likelihood (ELBO) is pushed up; else an
upper bound (EUBO, of Renyi type) is pushed down, mixed with the ELBO for less
variance. Source: arXiv 2510.09541 and its published code, in which the ELBO is
the mean log-prob of the masked tokens, without 1/t.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import objective

# exp of less than this is no gradient anyone would miss, and log of it finite.
_FLOOR = -80.0


def spg(
  logps: jax.Array, weight: jax.Array, advantage: jax.Array, mask: jax.Array,
  *, beta: float, mix: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The loss; its mean over responses weighs each by its length.

  Args:
    logps: [n, b, t] or [b, t] fp32.
    weight: the same shape, positive where a draw masked the token, constant
      within a draw, whatever its size; else zero.
    advantage: [b].
    mask: [b, t] bool, the tokens that count.
    beta: of the upper bound, at least 1.
    mix: share of the upper bound where A <= 0, in 0..1.

  Returns:
    The loss [b] and metrics [b]: `elbo` and `eubo` per token.
  """
  shape = (-1, *logps.shape[-2:])
  draws = jax.vmap(_statistic, (0, 0, None, None))(
    logps.reshape(shape), weight.reshape(shape), mask, beta)
  means = jax.tree.map(lambda x: jnp.mean(x, 0), draws)
  return _outer(
    means, advantage, mask, jnp.mean(jnp.sum(mask, -1)), beta, mix)


def spg_objective(
  beta: float = 1.5, mix: float = 0.5
) -> objective.Objective:
  """SPG through its two bounds."""
  return objective.Joint(
    lambda draw, rows: _statistic(draw.logps, draw.weight, rows.valid, beta),
    lambda means, rows: _outer(
      means, rows.advantage, rows.valid, rows.tokens, beta, mix))


def _statistic(logps, weight, mask, beta):
  """The draw's ELBO [b] and terms of the EUBO's inner means [b, t]."""
  live = mask & (weight > 0)
  # A draw that masked none of the tokens that count says nothing.
  count = jnp.maximum(jnp.sum(live, -1), 1)
  share = count / jnp.maximum(jnp.sum(mask, -1), 1)
  elbo = jnp.sum(jnp.where(live, logps, 0.0), -1) / count
  power = jnp.exp(jnp.maximum(beta * jnp.where(live, logps, 0.0), _FLOOR))
  return elbo, jnp.where(live, power / share[:, None], 0.0)


def _outer(means, advantage, mask, tokens, beta, mix):
  elbo, inner = means
  seen = mask & (inner > 0)
  logs = jnp.where(seen, jnp.log(jnp.where(seen, inner, 1.0)), 0.0)
  eubo = jnp.sum(logs, -1) / jnp.maximum(jnp.sum(seen, -1), 1) / beta
  bound = jnp.where(advantage > 0, elbo, mix * eubo + (1 - mix) * elbo)
  length = jnp.sum(mask, -1) / jnp.maximum(tokens, 1e-9)
  return -advantage * bound * length, {"elbo": elbo, "eubo": eubo}
