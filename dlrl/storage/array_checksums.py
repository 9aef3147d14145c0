"""Sharding-independent checksums of arrays: any flipped bit changes them."""

import functools
import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

# Elements of a shard that a CPU sums at a time. It makes an array of products
# before it adds them up, which for a whole parameter takes as much memory again
# and several times the time. Compiled for TPUs, the sum needs no such array.
CPU_PART = 1 << 16

Cut = tuple[int, int]  # (axis, size): how an array is taken in parts


def leaves(tree: Any) -> dict[str, str]:
  """Maps the path `a/b` of each array to its `dtype:checksum`, 32 bits in hex.

  A change of any single element changes the checksum. It is a sum of integers,
  so it depends neither on the order of summation nor on the sharding. All are
  computed by one program and read at once: a read waits for the devices, and on
  several hosts for all of them.
  """
  found = [(jax.tree_util.keystr(path, simple=True, separator="/"),
            jnp.asarray(x))
           for path, x in jax.tree_util.tree_leaves_with_path(tree)]
  arrays = [x for _, x in found]
  # Two programs that communicate between CPU devices at the same time can
  # occupy all threads and deadlock.
  jax.block_until_ready(arrays)
  whole = next((NamedSharding(x.sharding.mesh, PartitionSpec()) for x in arrays
                if isinstance(x.sharding, NamedSharding)), None)
  sums = jax.device_get(_sums(arrays, tuple(map(_cut, arrays)), whole))
  return {name: f"{x.dtype}:{total:08x}"
          for (name, x), total in zip(found, sums.tolist(), strict=True)}


def fingerprint(tree: Any) -> str:
  """Twelve hex digits that identify the arrays of a tree and their paths.

  For arrays that a checkpoint depends on but does not contain.
  """
  text = repr(list(leaves(tree).items()))
  return hashlib.sha256(text.encode()).hexdigest()[:12]


def _cut(x: jax.Array) -> Cut:
  """On CPUs parts of about `CPU_PART` elements of each shard, or the whole."""
  shard = x.sharding.shard_shape(x.shape)
  # Not along an axis that is split over devices: they would exchange parts.
  axes = [i for i, size in enumerate(shard) if size == x.shape[i]]
  on_cpu = all(device.platform == "cpu" for device in x.devices())
  if not (on_cpu and axes and x.size):
    return 0, max(x.shape, default=0) or 1
  last = len(shard) - 1  # its elements are neighbours in memory
  axis = max(axes, key=lambda i: (i < last, shard[i]))
  return axis, max(1, CPU_PART * shard[axis] // math.prod(shard))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sums(arrays: list[jax.Array], cuts: tuple[Cut, ...],
          whole: NamedSharding | None) -> jax.Array:
  """[n] uint32: the checksum of each of n arrays, on all devices."""
  found = jnp.array([_sum(jnp.atleast_1d(x), *cut)
                     for x, cut in zip(arrays, cuts, strict=True)], jnp.uint32)
  return jax.lax.with_sharding_constraint(found, whole) if whole else found


def _sum(x: jax.Array, axis: int, size: int) -> jax.Array:
  """The checksum of `x`, taken in parts of `size` along `axis`."""
  count, rest = divmod(x.shape[axis], size)

  def add(start: Any, size: int, sums: Any) -> jax.Array:
    part = jax.lax.dynamic_slice_in_dim(x, start, size, axis)
    return sums + jnp.sum(
      _weighted(part, x.shape, axis, start), axis, dtype=jnp.uint32)

  # Not one number yet: devices would have to add theirs up for each part.
  sums = add(count * size, rest, jnp.uint32(0))
  if count:
    sums = jax.lax.fori_loop(
      0, count, lambda i, sums: add(i * size, size, sums), sums)
  return jnp.sum(sums, dtype=jnp.uint32)


def _weighted(x: jax.Array, whole: tuple[int, ...], axis: int, start: Any
              ) -> jax.Array:
  """The bits of elements times odd numbers, modulo 2**32.

  The odd number differs between elements. It is invertible modulo 2**32, so
  that changing one element always changes the sum.

  Args:
    x: the part from `start` along `axis` of an array.
    whole: the array's shape.
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
  for i, size in enumerate((*whole, *x.shape[len(whole):])):
    index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, i)
    if i == axis:
      index += jnp.asarray(start, jnp.uint32)
    place = place * jnp.uint32(size) + index
  odd = place * jnp.uint32(0x3C6EF362) + jnp.uint32(1)
  return bits * odd
