"""SPG, the sandwiched policy gradient: a bound from each side, by sign of A.

Where A > 0 the lower bound of the log-likelihood (ELBO) is raised; elsewhere an
upper bound (EUBO, of Renyi type), mixed with the ELBO for less variance, is
lowered. Source: arXiv 2510.09541 and its published code, in which the ELBO is
the mean log-prob of the masked tokens, without 1/t.
"""

import jax
import jax.numpy as jnp

from dlrl.losses import floats
from dlrl.losses import objective
from dlrl.strict import shapes

# exp(-80) is a normal number in fp32, so its log is finite. A token this
# improbable has no gradient from the upper bound. The other end is out of reach
# of probabilities, and keeps what is not one finite.
_LOGS = -80.0, 40.0
# Powers are kept in units of 2^-40, which changes no digit: the slope of the
# log of exp(-80) would leave no room in fp32 for an advantage.
_UNIT = 2.0**-40


def spg(
  logps: jax.Array, weight: jax.Array, advantage: jax.Array, mask: jax.Array,
  *, beta: float, mix: float,
) -> objective.LossAndMetrics:
  """The loss; its mean over responses weights each by its length.

  Args:
    logps: [n, b, t] or [b, t] fp32.
    weight: like `logps`; positive where a draw masked the token, otherwise
      zero. Only its sign matters.
    advantage: [b] fp32.
    mask: [b, t] bool, the tokens that count.
    beta: order of the upper bound, at least 1.
    mix: share of the upper bound where A <= 0, in 0..1.

  Returns:
    The loss [b] and metrics [b]: `elbo` and `eubo`, nats per token.
  """
  shapes.require(
    "spg", logps=(logps, "bt|nbt"), weight=(weight, shapes.of_tokens(logps)),
    advantage=(advantage, "b"), mask=(mask, "bt"))
  shape = (-1, *logps.shape[-2:])
  draws = jax.vmap(_statistic, (0, 0, None, None))(
    logps.reshape(shape), weight.reshape(shape), mask, beta)
  return _outer(
    jax.tree.map(objective.over_draws, draws), advantage, mask,
    jnp.mean(jnp.sum(mask, -1, dtype=jnp.float32)), beta, mix)


def spg_objective(
  beta: float = 1.5, mix: float = 0.5
) -> objective.Joint:
  """SPG as a function of its two bounds."""
  return objective.Joint(
    lambda draw, rows: _statistic(draw.logps, draw.weight, rows.valid, beta),
    lambda means, rows: _outer(
      means, rows.advantage, rows.valid, rows.tokens, beta, mix),
    others="scores")


def _statistic(
  logps: jax.Array, weight: jax.Array, mask: jax.Array, beta: float
) -> tuple[jax.Array, jax.Array]:
  """The draw's ELBO [b] and terms of the EUBO's inner means [b, t]."""
  live = mask & (floats.wide(weight) > 0)
  logps = jnp.where(live, floats.wide(logps), 0.0)
  # At least 1: a draw that masked no valid token contributes zero, not 0/0.
  count = _count(live, logps.dtype)
  share = count / _count(mask, logps.dtype)
  elbo = jnp.sum(logps, -1) / count
  power = jnp.exp(jnp.clip(beta * logps, *_LOGS)) / _UNIT
  return elbo, jnp.where(live, power / share[:, None], 0.0)


def _outer(
  means: tuple[jax.Array, jax.Array], advantage: jax.Array, mask: jax.Array,
  tokens: jax.Array, beta: float, mix: float,
) -> objective.LossAndMetrics:
  elbo, inner, advantage, tokens = floats.wide(*means, advantage, tokens)
  # EUBO = mean_i log(mean_j p_ij^beta / share_j) / beta, over the tokens i that
  # some draw j masked.
  seen = mask & (inner > 0)
  inner = jnp.where(seen, inner, 1 / _UNIT)
  eubo = jnp.sum(_log(inner), -1) / _count(seen, inner.dtype) / beta
  bound = jnp.where(advantage > 0, elbo, mix * eubo + (1 - mix) * elbo)
  # The bounds are means over tokens; this makes the batch's loss a mean over
  # all its tokens instead of over responses.
  length = jnp.sum(mask, -1, dtype=tokens.dtype) / jnp.maximum(tokens, 1e-9)
  return -advantage * bound * length, {"elbo": elbo, "eubo": eubo}


def _log(inner: jax.Array) -> jax.Array:
  """The log of a number of units, with the slope 1 / `inner`."""
  log = jnp.log(inner)
  # `log` minus itself adds nothing but its slope.
  still = jax.lax.stop_gradient
  return still(jnp.log(inner * _UNIT)) + (log - still(log))


def _count(mask: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Set positions of every row [b, t], at least 1."""
  return jnp.maximum(jnp.sum(mask, -1, dtype=dtype), 1)
