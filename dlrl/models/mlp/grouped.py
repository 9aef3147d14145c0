"""Products of groups of rows, each group with a matrix of its own.

The semantics are those of `jax.lax.ragged_dot`, which is not enough by itself:
JAX computes it for GPUs and CPUs, and its gradient of the matrices for TPUs,
as a product of all rows with all matrices under a mask. With 256 experts, eight
per token, that is 256 times the work.

On TPUs the compiler's own kernel and Megablox's compute it, exactly as many
products as there are rows (and their tiles' rests). Elsewhere XLA does, in
passes of batched products with room for a number of rows per matrix. One pass
of all matrices is enough while groups are nearly equal; then come passes of the
few largest of the groups that are left.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dlrl.costs import flops
from dlrl.runtime import mesh as mesh_lib

# Rows that a pass has room for, over their mean number per matrix. More would
# be computed as padding, fewer would need another pass more often.
SLACK = 1.25
# Matrices, per matrix of a further pass.
PART = 8
# Rows of a tile of Megablox's kernel, and its largest sizes of a matrix's. More
# rows would compute more of the tiles' rests, larger sizes exceed the memory of
# a v5e's core.
TILE = (128, 1024, 512)


@jax.custom_vjp
def product(rows: jax.Array, kernel: jax.Array, sizes: jax.Array) -> jax.Array:
  """Multiplies each group of rows by its matrix.

  Forward-mode differentiation is not supported.

  Args:
    rows: [n, d], those of the first group first.
    kernel: [e, d, f], in the dtype of `rows`.
    sizes: [e] int32, not negative, rows of each group; n or less together.

  Returns:
    [n, f] in their dtype; behind the groups, anything.
  """
  y: jax.Array = grouped_product(rows, kernel, sizes)
  return y


@jax.jit
def grouped_product(
  rows: jax.Array, kernel: jax.Array, sizes: jax.Array
) -> jax.Array:
  """Computes `product`; `costs.flops` knows this name."""
  if mesh_lib.platform() == "tpu":
    return jax.lax.ragged_dot(rows, kernel, sizes)
  n = len(rows)

  def add(
    y: jax.Array, group: jax.Array | slice, index: jax.Array
  ) -> jax.Array:
    each = jnp.einsum("ecd,edf->ecf", _taken(rows, index), kernel[group])
    return y.at[index].set(each, mode="drop", unique_indices=True)

  return _passes(add, jnp.zeros((n, kernel.shape[-1]), rows.dtype), sizes, n)


@jax.jit
def grouped_gradient(
  rows: jax.Array, cotangent: jax.Array, sizes: jax.Array
) -> jax.Array:
  """Computes the gradient of the matrices; `costs.flops` knows this name.

  Args:
    rows: [n, d].
    cotangent: [n, f], of the product.
    sizes: [e] int32.

  Returns:
    [e, d, f]: of each group, its rows transposed times its cotangent.
  """
  if mesh_lib.platform() == "tpu":
    return tiled_gradient(rows, cotangent, sizes)
  shape = len(sizes), rows.shape[-1], cotangent.shape[-1]

  def add(
    total: jax.Array, group: jax.Array | slice, index: jax.Array
  ) -> jax.Array:
    return total.at[group].add(jnp.einsum(
      "ecd,ecf->edf", _taken(rows, index), _taken(cotangent, index),
      preferred_element_type=jnp.float32), unique_indices=True)

  return _passes(
    add, jnp.zeros(shape, jnp.float32), sizes, len(rows)).astype(rows.dtype)


def tiled_gradient(
  rows: jax.Array, cotangent: jax.Array, sizes: jax.Array, *,
  interpret: bool = False,
) -> jax.Array:
  """Computes `grouped_gradient` by Megablox's kernel, which JAX contains.

  Args:
    rows: as there.
    cotangent: as there.
    sizes: as there.
    interpret: emulates the kernel on any platform, slowly, for tests.
  """
  from jax.experimental.pallas.ops.tpu.megablox.gmm import (
    tgmm,  # slow to import
  )
  tile, *most = TILE
  rest = -len(rows) % tile
  rows, cotangent = (
    jnp.pad(x, ((0, rest), (0, 0))) for x in (rows, cotangent))
  largest = (min(size, x.shape[1])
             for size, x in zip(most, (rows, cotangent), strict=True))
  gradient: jax.Array = tgmm(
    rows.T, cotangent, sizes, rows.dtype, (tile, *largest),
    interpret=interpret)
  return gradient


def room(rows: int, groups: int) -> int:
  """Rows that a pass has room for in each of `groups` groups, of `rows`."""
  mean = -(-int(SLACK * rows) // groups)
  return min(rows, -(-mean // 8) * 8)


def _passes(
  add: Callable[[jax.Array, jax.Array | slice, jax.Array], jax.Array],
  zeros: jax.Array, sizes: jax.Array, rows: int,
) -> jax.Array:
  """Adds up passes that together have each row of a group once.

  Args:
    add: adds a pass to a sum: of the groups `group`, rows `index` [g, c], each
      different, those outside of the array for none.
    zeros: the sum of no pass.
    sizes: [e] int32, rows of each group.
    rows: how many there are.
  """
  groups = len(sizes)
  most, some = room(rows, groups), -(-groups // PART)

  def index(first: jax.Array, left: jax.Array) -> jax.Array:
    rank = jnp.arange(most, dtype=jnp.int32)[None]
    none = rows + jnp.arange(first.size * most, dtype=jnp.int32)
    return jnp.where(
      rank < left[:, None], first[:, None] + rank, none.reshape(-1, most))

  first = jnp.cumsum(sizes, dtype=jnp.int32) - sizes
  total = add(zeros, slice(None), index(first, sizes))

  def another(
    state: tuple[jax.Array, jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    total, first, left = state
    _, group = jax.lax.top_k(left, some)
    total = add(total, group, index(first[group], left[group]))
    return total, first.at[group].add(most), left.at[group].add(-most)

  # Costs of a program are counted without further passes.
  with jax.named_scope(flops.RARELY):
    total, *_ = jax.lax.while_loop(
      lambda state: jnp.any(state[2] > 0), another,
      (total, first + most, sizes - most))
  return total


def _taken(x: jax.Array, index: jax.Array) -> jax.Array:
  """The rows of x [n, d] at `index` [g, c]; zeros for those outside."""
  return x.at[index].get(mode="fill", fill_value=0, unique_indices=True)


def _forward(
  rows: jax.Array, kernel: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  return grouped_product(rows, kernel, sizes), (rows, kernel, sizes)


def _backward(
  residuals: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
  rows, kernel, sizes = residuals
  return (grouped_product(cotangent, jnp.swapaxes(kernel, 1, 2), sizes),
          grouped_gradient(rows, cotangent, sizes), None)


product.defvjp(_forward, _backward)
