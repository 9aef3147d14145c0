"""Gradients of means over Monte-Carlo draws, in memory independent of n.

The gradient of a *separable* objective (BGPO, REINFORCE on the ELBO, ...) is a
sum of one gradient per draw, taken inside a scan: one forward and one backward
pass per draw, and only one draw's activations exist at a time.

A *joint* objective is a function f of the mean over draws of a statistic s_j (a
ratio of ELBOs, DPO, ...). By the chain rule its gradient is

    sum_j grad <f'(mean), s_j> / n,

a sum over draws as soon as f' at the mean is known. A forward pass over the
draws gives the mean: one more forward per draw, again one draw at a time.

What does not depend on the draw, such as the keys and values of the clean
tokens of a block-diffusion model, is computed once (`prepare`). The draws'
gradients of it are summed, and pulled back to the parameters once.

In `jax.shard_map`, gradients are those of `jax.grad`: of parameters that do not
vary over a mesh axis they are sums over it, of parameters that do
(`jax.lax.pcast`) each device has its own.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dlrl.losses import floats
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
# (params, what `prepare` gives, j) -> the same
SharedScore = Callable[
  [Params, Any, jax.Array], tuple[losses.Scored, losses.Metrics]]


def separable_value_and_grad(
  term: Term, params: Params, n: int, onto: Params | None = None, *,
  at_once: int = 1,
) -> tuple[tuple[jax.Array, Any], Params]:
  """((sum_j term_j, sum_j extras_j), `onto` + gradient of the first sum).

  Args:
    term: (params, j) -> (term, extras) of draw j. It has to make the draw from
      j, so that nothing is stored per draw.
    params: differentiated; gradients accumulate in fp32 or wider.
    n: number of draws, at least 1.
    onto: tree to which the gradients are added, shaped like `zeros(params)`;
      None for zeros. With it, several calls share one accumulator.
    at_once: draws that are computed together, a divisor of n. If more than 1,
      `term` takes their indices, [at_once] int32, and gives sums over them.

  Raises:
    ValueError: n is less than 1, or no multiple of `at_once`.
  """
  indices = draws(n, at_once)

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

  def start(shapes: Any) -> Any:
    return zeros(shapes[0]), zeros(shapes[1]) if onto is None else onto

  sums, grads = _sum(value_and_grad, params, start, indices)
  return sums, grads


def joint_value_and_grad(
  statistic: Statistic, outer: Outer, params: Params, n: int,
  onto: Params | None = None, *, at_once: int = 1,
) -> tuple[tuple[jax.Array, Any], Params]:
  """((value, extras) of `outer`, `onto` + gradient of the value), exactly.

  Args:
    statistic: (params, j) -> a tree of arrays; makes draw j from j.
    outer: maps the mean over draws of the statistic to (value, extras).
    params: differentiated; gradients accumulate in fp32 or wider.
    n: number of draws, at least 1.
    onto: see `separable_value_and_grad`.
    at_once: see `separable_value_and_grad`; of `statistic`.

  Raises:
    ValueError: n is less than 1, or no multiple of `at_once`.
  """
  scoped = jax.named_scope("update/forward")(statistic)
  mean = _mean(_sum(scoped, params, zeros, draws(n, at_once)), n)
  value, slope = jax.value_and_grad(outer, has_aux=True)(mean)

  # `slope` is a constant here: differentiating <slope, s_j> gives the second
  # factor of the chain rule.
  def term(params: Params, j: jax.Array) -> tuple[jax.Array, None]:
    each = statistic(params, j)
    parts = jax.tree.map(
      lambda s, x: jnp.sum(s * x.astype(s.dtype)) / n, slope, each)
    return jax.tree.reduce(jnp.add, parts), None

  _, grads = separable_value_and_grad(term, params, n, onto, at_once=at_once)
  return value, grads


def value_and_grad(
  objective: losses.Objective, score: Score, rows: losses.Responses,
  params: Params, n: int, onto: Params | None = None, *, at_once: int = 1,
) -> tuple[tuple[jax.Array, losses.Metrics], Params]:
  """((loss, metrics), gradients) of an objective, averaged over responses.

  Args:
    objective: separable or joint.
    score: (params, j) -> the scored draw j and further metrics, [b].
    rows: the responses.
    params: differentiated; gradients accumulate in fp32 or wider.
    n: number of draws, at least 1.
    onto: see `separable_value_and_grad`.
    at_once: draws that are computed together, a divisor of n. If more than 1,
      `score` takes their indices, [at_once] int32, and its arrays are
      [at_once, b, ...]. Memory grows with it.

  Returns:
    The loss, a scalar; metrics [b], averaged over draws; and `onto` +
    gradients.

  Raises:
    ValueError: n is less than 1 or no multiple of `at_once`, there are no
      responses, or arrays do not have the shapes of `Scored` and `Responses`,
      or the loss and its metrics [b].
  """
  _require_responses(rows)
  if isinstance(objective, losses.Separable):
    loss_of = objective.loss

    def of_draw(draw: losses.Scored, metrics: losses.Metrics
                ) -> tuple[jax.Array, losses.Metrics]:
      losses.require_shapes(draw, rows)
      loss, more = losses.of_rows(loss_of(draw, rows), rows, "Separable.loss")
      return jnp.mean(loss) / n, _mean(floats.each_wide(metrics | more), n)

    return separable_value_and_grad(
      _summed(of_draw, score, at_once), params, n, onto, at_once=at_once)
  statistic, outer = _joint(objective, score, rows, at_once)
  return joint_value_and_grad(
    statistic, outer, params, n, onto, at_once=at_once)


def shared_value_and_grad(
  objective: losses.Objective, score: SharedScore,
  prepare: Callable[[Params], Any], rows: losses.Responses, params: Params,
  n: int, onto: Params | None = None, *, at_once: int = 1,
) -> tuple[tuple[jax.Array, losses.Metrics], Params]:
  """`value_and_grad` of draws that have a part of the work in common.

  Besides, memory holds what `prepare` gives, its gradient, and what its
  backward pass needs, for any number of draws.

  Args:
    objective: separable or joint.
    score: (params, shared, j) -> the scored draw j and further metrics, [b].
    prepare: params -> shared, a tree of floating arrays that all draws use.
    rows: the responses.
    params: differentiated, also through `shared`.
    n: number of draws, at least 1.
    onto: see `separable_value_and_grad`.
    at_once: see `value_and_grad`.

  Returns:
    As `value_and_grad`.

  Raises:
    ValueError: as `value_and_grad`.
  """
  with jax.named_scope("update/forward"):
    shared, pull = jax.vjp(prepare, params)
  onto = zeros(params) if onto is None else onto
  result, (grads, slope) = value_and_grad(
    objective, lambda both, j: score(both[0], both[1], j), rows,
    (params, shared), n, (onto, zeros(shared)), at_once=at_once)
  if not jax.tree.leaves(shared):
    return result, grads
  with jax.named_scope("update/backward"):
    through = pull(jax.tree.map(lambda g, x: g.astype(x.dtype), slope, shared))
  return result, add(grads, through[0])


def stacked_value_and_grad(
  objective: losses.Objective, score: Score, rows: losses.Responses,
  params: Params, n: int, onto: Params | None = None,
) -> tuple[tuple[jax.Array, losses.Metrics], Params]:
  """`value_and_grad` with all draws in memory at once.

  This is how other frameworks compute it. Not for training: the tests use it as
  the oracle and the benchmarks as the baseline.
  """
  indices = draws(n, 1)
  _require_responses(rows)
  if isinstance(objective, losses.Separable):
    objective = losses.Joint(objective.loss, lambda means, _: means)
  statistic, outer = _joint(objective, score, rows, 1)

  def loss(params: Params) -> tuple[jax.Array, losses.Metrics]:
    each = jax.vmap(functools.partial(statistic, params))(indices)
    return outer(jax.tree.map(losses.over_draws, floats.each_wide(each)))

  value, grads = jax.value_and_grad(loss, has_aux=True)(params)
  return value, grads if onto is None else add(onto, grads)


def _joint(
  objective: losses.Joint, score: Score, rows: losses.Responses, at_once: int
) -> tuple[Statistic, Outer]:
  def of_draw(draw: losses.Scored, metrics: losses.Metrics
              ) -> tuple[Any, losses.Metrics]:
    losses.require_shapes(draw, rows)
    return objective.statistic(draw, rows), jax.lax.stop_gradient(metrics)

  def outer(
    means: tuple[Any, losses.Metrics]
  ) -> tuple[jax.Array, losses.Metrics]:
    loss, metrics = losses.of_rows(
      objective.outer(means[0], rows), rows, "Joint.outer")
    return jnp.mean(loss), means[1] | metrics

  return _summed(of_draw, score, at_once), outer


def _summed(
  of_draw: Callable[..., Any], score: Score, at_once: int
) -> Callable[[Params, jax.Array], Any]:
  """(params, j) -> `of_draw` of what `score` gives, or the draws' sum of it."""
  def several(params: Params, j: jax.Array) -> Any:
    each = jax.vmap(of_draw)(*score(params, j))
    # In fp32 or wider, as sums over draws are.
    return jax.tree.map(lambda x: jnp.sum(x, 0), floats.each_wide(each))

  return several if at_once > 1 else lambda params, j: of_draw(
    *score(params, j))


def draws(n: int, at_once: int = 1) -> jax.Array:
  """The indices of draws, [n] int32, or [n / at_once, at_once].

  Raises:
    ValueError: n is less than 1, or no multiple of `at_once`.
  """
  if n < 1:
    raise ValueError(f"n is {n}; a mean over draws takes at least one draw")
  if at_once < 1 or n % at_once:
    raise ValueError(
      f"at_once is {at_once}; choose a divisor of n, the {n} draws")
  indices = jnp.arange(n, dtype=jnp.int32)
  return indices if at_once == 1 else indices.reshape(-1, at_once)


def _require_responses(rows: losses.Responses) -> None:
  if not rows.advantage.size:
    raise ValueError(
      "there are no responses: rows.advantage has the shape "
      f"{rows.advantage.shape}; leave out batches without rows")


def _sum(
  term: Statistic, params: Params, start: Callable[[Any], Any],
  indices: jax.Array,
) -> Any:
  """The sum over draws of a tree, from `start` of the shapes of one."""
  # Jitted, so that it is traced once, which takes seconds of a start.
  term = jax.jit(term, inline=True)
  total = start(jax.eval_shape(term, params, indices[0]))
  return jax.lax.scan(
    lambda total, j: (add(total, term(params, j)), None), total, indices)[0]


def _mean(sums: Any, n: int) -> Any:
  return jax.tree.map(lambda x: x / n, sums)


def zeros(shapes: Any) -> Any:
  """Accumulators for a tree of arrays or shapes: zeros, at least fp32.

  They have the types of the arrays, as a scan requires of what it carries: the
  axes of `jax.shard_map` over which an array varies, and its sharding where the
  mesh is Explicit.
  """
  def zero(like: jax.ShapeDtypeStruct) -> jax.Array:
    x = jnp.zeros_like(like, floats.widened(like.dtype))
    # jax 0.12 drops the sharding here unless the mesh is the current one. There
    # is none where no axis is Explicit or Manual.
    return x if like.sharding is None else jax.reshard(x, like.sharding)

  return jax.tree.map(zero, jax.eval_shape(lambda x: x, shapes))


def add(total: Any, term: Any) -> Any:
  """`total + term`, leaf by leaf, in the dtype of `total`."""
  return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, term)
