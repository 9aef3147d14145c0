"""Gradients of means over Monte-Carlo draws, in memory independent of n.

The gradient of a *separable* objective (BGPO, REINFORCE on the ELBO, ...) is a
sum of one gradient per draw, taken inside a scan: one forward and one backward
pass per draw, and only one draw's activations exist at a time.

A *joint* objective is a function f of the mean over draws of a statistic s_j (a
ratio of ELBOs, DPO, ...). By the chain rule its gradient is

    sum_j grad <f'(mean), s_j> / n,

a sum over draws as soon as f' at the mean is known. A forward pass over the
draws gives the mean: one more forward per draw, again one draw at a time.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlrl.losses import objective as losses

Params = Any
# (params, j) -> (the term of draw j, a tree of further numbers to be summed)
Term = Callable[[Params, jax.Array], tuple[jax.Array, Any]]
# (params, j) -> the statistic of draw j, a tree of arrays
Statistic = Callable[[Params, jax.Array], Any]
# mean over draws of the statistic -> (value, a tree of further results)
Outer = Callable[[Any], tuple[jax.Array, Any]]
# (params, j) -> (the scored draw j, metrics [b])
Score = Callable[[Params, jax.Array], tuple[losses.Scored, losses.Metrics]]


def separable_value_and_grad(
  term: Term, params: Params, n: int, onto: Params | None = None
) -> tuple[tuple[jax.Array, Any], Params]:
  """((sum_j term_j, sum_j extras_j), `onto` + gradient of the first sum).

  Args:
    term: (params, j) -> (term, extras) of draw j. It has to make the draw from
      j, so that nothing is stored per draw.
    params: differentiated; gradients accumulate in fp32 or wider.
    n: number of draws, at least 1.
    onto: tree to which the gradients are added, shaped like `zeros(params)`;
      None for zeros. With it, several calls share one accumulator.
  """
  def value_and_grad(
    params: Params, j: jax.Array
  ) -> tuple[tuple[jax.Array, Any], Params]:
    # vjp instead of value_and_grad: the two passes have separate scopes in a
    # profile.
    with jax.named_scope("update/forward"):
      value, pull, extras = jax.vjp(
        lambda params: term(params, j), params, has_aux=True)
    with jax.named_scope("update/backward"):
      return (value, extras), pull(jnp.ones_like(value))[0]

  def step(total: Any, j: jax.Array) -> tuple[Any, None]:
    return add(total, value_and_grad(params, j)), None

  shapes, _ = jax.eval_shape(value_and_grad, params, jnp.int32(0))
  start = zeros(shapes), zeros(params) if onto is None else onto
  total, _ = jax.lax.scan(step, start, jnp.arange(n, dtype=jnp.int32))
  return total


def joint_value_and_grad(
  statistic: Statistic, outer: Outer, params: Params, n: int,
  onto: Params | None = None,
) -> tuple[tuple[jax.Array, Any], Params]:
  """((value, extras) of `outer`, `onto` + gradient of the value), exactly.

  Args:
    statistic: (params, j) -> a tree of arrays; makes draw j from j.
    outer: maps the mean over draws of the statistic to (value, extras).
    params: differentiated; gradients accumulate in fp32 or wider.
    n: number of draws, at least 1.
    onto: see `separable_value_and_grad`.
  """
  draws = jnp.arange(n, dtype=jnp.int32)
  shapes = jax.eval_shape(statistic, params, jnp.int32(0))

  @jax.named_scope("update/forward")
  def step(total: Any, j: jax.Array) -> tuple[Any, None]:
    return add(total, statistic(params, j)), None

  total, _ = jax.lax.scan(step, zeros(shapes), draws)
  mean = _mean(total, n)
  value, slope = jax.value_and_grad(outer, has_aux=True)(mean)

  # `slope` is a constant here: differentiating <slope, s_j> gives the second
  # factor of the chain rule.
  def term(params: Params, j: jax.Array) -> tuple[jax.Array, None]:
    each = statistic(params, j)
    parts = jax.tree.map(lambda s, x: jnp.sum(s * x) / n, slope, each)
    return jax.tree.reduce(jnp.add, parts), None

  _, grads = separable_value_and_grad(term, params, n, onto)
  return value, grads


def value_and_grad(
  objective: losses.Objective, score: Score, rows: losses.Responses,
  params: Params, n: int, onto: Params | None = None,
) -> tuple[tuple[jax.Array, losses.Metrics], Params]:
  """((loss, metrics), gradients) of an objective, averaged over responses.

  Args:
    objective: separable or joint.
    score: (params, j) -> the scored draw j and further metrics, [b].
    rows: the responses.
    params: differentiated; gradients accumulate in fp32 or wider.
    n: number of draws, at least 1.
    onto: see `separable_value_and_grad`.

  Returns:
    The loss, a scalar; metrics [b], averaged over draws; and `onto` +
    gradients.
  """
  if isinstance(objective, losses.Separable):
    loss_of = objective.loss

    def term(params: Params, j: jax.Array) -> tuple[jax.Array, losses.Metrics]:
      draw, metrics = score(params, j)
      loss, more = loss_of(draw, rows)
      return jnp.mean(loss) / n, _mean(metrics | more, n)

    return separable_value_and_grad(term, params, n, onto)
  statistic, outer = _joint(objective, score, rows)
  return joint_value_and_grad(statistic, outer, params, n, onto)


def stacked_value_and_grad(
  objective: losses.Objective, score: Score, rows: losses.Responses,
  params: Params, n: int, onto: Params | None = None,
) -> tuple[tuple[jax.Array, losses.Metrics], Params]:
  """`value_and_grad` with all draws in memory at once.

  This is how other frameworks compute it. Not for training: the tests use it as
  the oracle and the benchmarks as the baseline.
  """
  if isinstance(objective, losses.Separable):
    objective = losses.Joint(objective.loss, lambda means, _: means)
  statistic, outer = _joint(objective, score, rows)

  def loss(params: Params) -> tuple[jax.Array, losses.Metrics]:
    each = jax.vmap(functools.partial(statistic, params))(
      jnp.arange(n, dtype=jnp.int32))
    return outer(jax.tree.map(lambda x: jnp.mean(x, 0), each))

  value, grads = jax.value_and_grad(loss, has_aux=True)(params)
  return value, grads if onto is None else add(onto, grads)


def _joint(
  objective: losses.Joint, score: Score, rows: losses.Responses
) -> tuple[Statistic, Outer]:
  def statistic(params: Params, j: jax.Array) -> tuple[Any, losses.Metrics]:
    draw, metrics = score(params, j)
    return objective.statistic(draw, rows), jax.lax.stop_gradient(metrics)

  def outer(
    means: tuple[Any, losses.Metrics]
  ) -> tuple[jax.Array, losses.Metrics]:
    loss, metrics = objective.outer(means[0], rows)
    return jnp.mean(loss), means[1] | metrics

  return statistic, outer


def _mean(sums: Any, n: int) -> Any:
  return jax.tree.map(lambda x: x / n, sums)


def zeros(shapes: Any) -> Any:
  """Accumulators for a tree of arrays or shapes: zeros, at least fp32."""
  return jax.tree.map(
    lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)),
    shapes)


def add(total: Any, term: Any) -> Any:
  """`total + term`, leaf by leaf, in the dtype of `total`."""
  return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, term)
