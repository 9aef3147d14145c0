"""Gradients of sums over Monte-Carlo draws, in memory that n does not change.

A *separable* objective is a sum of one term per draw (BGPO, REINFORCE on the
ELBO, ...). Then each draw's gradient is taken inside the scan and added up: one
forward and one backward per draw, and only one draw's activations exist.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Params = Any
# (params, j) -> (the term of draw j, a tree of further numbers to be summed)
Term = Callable[[Params, jax.Array], tuple[jax.Array, Any]]


def separable_value_and_grad(
  term: Term, params: Params, n: int
) -> tuple[tuple[jax.Array, Any], Params]:
  """((sum_j term_j, sum_j extras_j), gradient of the former).

  Args:
    term: of one draw; it makes the draw from j, so nothing is stored per draw.
    params: differentiated; gradients accumulate in fp32 or wider.
    n: number of draws, at least 1.
  """
  value_and_grad = jax.value_and_grad(term, has_aux=True)

  def step(total, j):
    return add(total, value_and_grad(params, j)), None

  shapes = jax.eval_shape(value_and_grad, params, jnp.int32(0))
  total, _ = jax.lax.scan(step, zeros(shapes), jnp.arange(n, dtype=jnp.int32))
  return total


def zeros(shapes: Any) -> Any:
  """Accumulators for a tree of arrays or shapes: zeros, at least fp32."""
  return jax.tree.map(
    lambda s: jnp.zeros(s.shape, jnp.promote_types(s.dtype, jnp.float32)),
    shapes)


def add(total: Any, term: Any) -> Any:
  """`total + term`, leaf by leaf, in the dtype of `total`."""
  return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, term)
