"""Floats that losses compute in: one dtype, and an exp that never overflows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Where `exp` becomes a straight line. exp(40) = 2e17 leaves room in fp32 for
# changes, advantages and weights of 1e4 each, for sums, and for the square of a
# gradient in its norm.
STEEP = 40.0


def wide(*trees: Any) -> Any:
  """The trees with all arrays in one dtype: fp64 if any has it, otherwise fp32.

  Whatever mixture of integers, bools, bf16 and fp32 a caller has, losses work
  on one dtype, without implicit promotion and not in 8 bits of precision.

  Args:
    *trees: trees of arrays or numbers.

  Returns:
    The tree, or a tuple of the trees if there are several.
  """
  arrays = jax.tree.map(jnp.asarray, trees)
  # A Python number is weak and does not ask for fp64, though x64 gives it that.
  dtype = widened(*(
    x.dtype for x in jax.tree.leaves(arrays) if not x.weak_type))
  out = jax.tree.map(lambda x: x.astype(dtype), arrays)
  return out if len(out) > 1 else out[0]


def each_wide(tree: Any) -> Any:
  """The tree with every array on its own as fp64 or, if it is not, fp32."""
  return jax.tree.map(wide, tree)


def widened(*dtypes: Any) -> Any:
  """fp64 if one of the dtypes is fp64, otherwise fp32."""
  return jnp.float64 if np.dtype(np.float64) in dtypes else jnp.float32


def exp(x: jax.Array) -> jax.Array:
  """exp(x); above `STEEP` its tangent there.

  Finite, with a finite gradient, for x up to 1e12: a score that has moved by
  more than 88 would overflow in fp32, and 0 * inf = NaN where a clip or a mask
  discards it. The tangent is convex and increasing like exp, so that what is
  not clipped is still pushed back.
  """
  near = jnp.exp(jnp.minimum(x, STEEP))
  return near + math.exp(STEEP) * jnp.maximum(x - STEEP, 0)


def weighted(x: jax.Array, weight: jax.Array) -> jax.Array:
  """`x` times `weight`, both wide; zero where `weight` is, whatever `x` is."""
  x, weight = wide(x, weight)
  # Selected before the product: 0 * -inf would be NaN.
  product: jax.Array = jnp.where(weight != 0, x, 0.0) * weight
  return product
