"""Device memory that a training state needs, before it is allocated."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dlrl import strict

# Advice where parameters do not fit.
ONE_GPU = (
  "a preset for one GPU, which trains adapters on a frozen bf16 model, such as "
  "--config=bgpo:llada_8b_math_1gpu")


def per_device(tree: Any) -> int:
  """Bytes per device of arrays, or of shapes with shardings."""
  total = 0
  for leaf in jax.tree.leaves(tree):
    shape = leaf.sharding.shard_shape(leaf.shape)
    total += math.prod(shape) * _bits(leaf.dtype) // 8
  return total


def in_use() -> dict[str, float]:
  """Current and peak GiB of the fullest local device; {} if unknown."""
  found = [stats for d in jax.local_devices() if (stats := d.memory_stats())]
  return {
    f"memory/{name}_gib": max(s[key] for s in found) / 2**30
    for name, key in (("in_use", "bytes_in_use"),
                      ("peak", "peak_bytes_in_use"))
    if found and all(key in s for s in found)}


def _bits(dtype: Any) -> int:
  # int4 is packed two to a byte; its itemsize is 1.
  if jnp.issubdtype(dtype, jnp.integer):
    return jnp.iinfo(dtype).bits
  return 8 * dtype.itemsize


def parts(state: Any) -> dict[str, Any]:
  """Arrays on the devices during an update, by name, for `estimate`.

  Args:
    state: shapes with shardings of a training state, with `base`, `params`,
      `opt_state` and `ref_params`.
  """
  return {
    "base": state.base, "parameters": state.params,
    "optimizer": state.opt_state, "reference": state.ref_params,
    "gradients": jax.tree.map(
      functools.partial(_accumulator, state.base is not None), state.params)}


def _accumulator(whole: bool, like: jax.ShapeDtypeStruct
                 ) -> jax.ShapeDtypeStruct:
  """The shape of a parameter's gradient, summed in fp32 over an update.

  Args:
    whole: whether a device has all that `mesh.fsdp` splits of the parameter, as
      for adapters; see `runtime.sharding.by_hand`.
    like: the parameter.
  """
  sharding = like.sharding
  if whole and isinstance(sharding, NamedSharding):
    sharding = NamedSharding(sharding.mesh, P(*(
      None if axis == "fsdp" else axis for axis in sharding.spec)))
  return jax.ShapeDtypeStruct(like.shape, "float32", sharding=sharding)


def estimate(parts: Mapping[str, Any], mesh: Mapping[str, int]) -> str:
  """One line with the memory per device of each part.

  Args:
    parts: maps names to trees of shapes with shardings, see `parts`.
    mesh: devices by axis, which the advice depends on.

  Raises:
    strict.ConfigError: the parts exceed a device's memory, without counting
      activations and rollouts.
  """
  sizes = {name: per_device(tree) for name, tree in parts.items()}
  total = sum(sizes.values())
  limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
  if limit is not None and total >= limit:
    why = (f"{_listed(sizes)} are {as_text(total)} per device, which has "
           f"{as_text(limit)}; see docs/memory.md")
    if mesh["data"] > 1:
      raise strict.ConfigError(
        "mesh.fsdp", mesh["fsdp"], f"must be greater: {why}")
    if parts.get("base") is None:
      raise strict.ConfigError(
        "lora.rank", 0, f"must be greater, or use more devices: {why}. There "
        f"is {ONE_GPU}")
    raise strict.ConfigError(
      "mesh.fsdp", mesh["fsdp"], f"must be greater, with more devices: {why}")
  room = "" if limit is None else f" of {as_text(limit)}"
  return (f"memory per device: {_listed(sizes)}; together {as_text(total)}"
          f"{room}, without activations")


def _listed(sizes: Mapping[str, int]) -> str:
  return ", ".join(
    f"{name} {as_text(size)}" for name, size in sizes.items() if size)


def as_text(size: int) -> str:
  """Bytes in MiB or GiB."""
  return (f"{size / 2**30:.1f} GiB" if size >= 2**30
          else f"{size / 2**20:.1f} MiB")
