"""Numbers that tell arrays apart to the bit, on whatever mesh they are."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp


def leaves(tree: Any) -> dict[str, str]:
  """`dtype:number` of each array, 32 bits in hex digits, under its path `a/b`.

  A change of any one element changes it; sums of integers do not depend on
  their order, nor on how an array is divided.
  """
  # One program at a time: several that exchange numbers between CPU devices
  # can hold all threads and wait for each other, for ever.
  jax.block_until_ready(tree)
  sums = jax.tree.map(lambda x: jax.device_get(_weighted_sum(x)), tree)
  dtypes = jax.tree.leaves(jax.tree.map(lambda x: str(x.dtype), tree))
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): f"{dtype}:{x:08x}"
    for (path, x), dtype in zip(
      jax.tree_util.tree_leaves_with_path(sums), dtypes, strict=True)}


def fingerprint(tree: Any) -> str:
  """Twelve hex digits that identify the arrays of a tree and their paths.

  For what a checkpoint does not hold and counts on.
  """
  text = repr(list(leaves(tree).items()))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


@jax.jit
def _weighted_sum(x: jax.Array) -> jax.Array:
  """The bits of all elements as integers, each times an odd number of its own.

  Modulo 2**32, where no odd number divides zero.
  """
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  if x.dtype == bool:
    x = x.astype(jnp.uint8)
  kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(
      jnp.uint32, x.shape, axis)
  odd = place * jnp.uint32(0x3C6EF362) + jnp.uint32(1)
  return jnp.sum(bits * odd, dtype=jnp.uint32)
