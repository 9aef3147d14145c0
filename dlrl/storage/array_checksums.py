"""Sharding-independent checksums of arrays: any flipped bit changes them."""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp


def leaves(tree: Any) -> dict[str, str]:
  """Maps the path `a/b` of each array to its `dtype:checksum`, 32 bits in hex.

  A change of any single element changes the checksum. It is a sum of integers,
  so it depends neither on the order of summation nor on the sharding.
  """
  # One program at a time: several that communicate between CPU devices can
  # occupy all threads and deadlock.
  jax.block_until_ready(tree)
  sums = jax.tree.map(lambda x: jax.device_get(_weighted_sum(x)), tree)
  dtypes = jax.tree.leaves(jax.tree.map(lambda x: str(x.dtype), tree))
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): f"{dtype}:{x:08x}"
    for (path, x), dtype in zip(
      jax.tree_util.tree_leaves_with_path(sums), dtypes, strict=True)}


def fingerprint(tree: Any) -> str:
  """Twelve hex digits that identify the arrays of a tree and their paths.

  For arrays that a checkpoint depends on but does not contain.
  """
  text = repr(list(leaves(tree).items()))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


@jax.jit
def _weighted_sum(x: jax.Array) -> jax.Array:
  """Sum over elements of their bits times an odd number, modulo 2**32.

  The odd number differs between elements. It is invertible modulo 2**32, so
  that changing one element always changes the sum.
  """
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  if x.dtype == bool or (
      jax.dtypes.issubdtype(x.dtype, jnp.integer)
      and jnp.iinfo(x.dtype).bits < 8):  # NF4
    x = x.astype(jnp.int8)
  if x.dtype.itemsize == 8:
    x = jax.lax.bitcast_convert_type(x, jnp.uint32)  # a pair for each element
  kind = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
  place = jnp.zeros(x.shape, jnp.uint32)
  for axis, size in enumerate(x.shape):
    place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(
      jnp.uint32, x.shape, axis)
  odd = place * jnp.uint32(0x3C6EF362) + jnp.uint32(1)
  return jnp.sum(bits * odd, dtype=jnp.uint32)
