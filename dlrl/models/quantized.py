"""Frozen matrices in int8 or NF4; needs the optional dependency qwix.

A layer's matrix [in, out] is stored in int8 with one scale per output, or in
NormalFloat4 (QLoRA, arXiv 2305.14314) with one scale per 64 inputs of each
output. It is dequantised where it is used, one layer at a time. Gradients flow
through the dense matrix to the activations; the matrix itself has none.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

# Arguments of `qwix.quantize` for one layer's matrix.
METHODS: dict[str, dict[str, Any]] = {
  "int8": dict(qtype=jnp.int8, channelwise_axes=(1,)),
  "nf4": dict(qtype="nf4", channelwise_axes=(1,), tiled_axes={0: 64}),
}


def is_quantized(leaf: Any) -> bool:
  """Tells whether `leaf` is a quantised matrix rather than an array."""
  return hasattr(leaf, "qvalue")


def dense(matrix: Any) -> Any:
  """Returns the matrix, or stack of matrices, as an array.

  A quantised one comes back in the dtype of its scales, an array unchanged.
  """
  if not is_quantized(matrix):
    return matrix
  import qwix
  if matrix.ndim == 2:
    return qwix.dequantize(matrix)
  return jax.lax.map(dense, matrix)


def shapes(params: Any, method: str, paths: tuple[str, ...]) -> Any:
  """Returns the shapes of parameters after `quantize`, with their shardings.

  Args:
    params: nested dicts of `ShapeDtypeStruct`s.
    method: a key of `METHODS`, or "none".
    paths: the linear maps whose kernels are quantised.
  """
  if method == "none":
    return params
  flat = traverse_util.flatten_dict(params, sep="/")
  for path in paths:
    name = path + "/kernel"
    flat[name] = _quantized_shape(flat[name], method)
  return traverse_util.unflatten_dict(flat, sep="/")


def quantize(
  params: Any, abstract: Any, method: str, paths: tuple[str, ...]
) -> None:
  """Quantises kernels in place, one stack of matrices after the other.

  So at most one of them exists both dense and quantised.

  Args:
    params: nested dicts of arrays.
    abstract: their `ShapeDtypeStruct`s with shardings.
    method: a key of `METHODS`, or "none".
    paths: the linear maps whose kernels are quantised.
  """
  if method == "none":
    return
  for path in paths:
    layer, like = params, abstract
    for name in path.split("/"):
      layer, like = layer[name], like[name]
    placed = jax.tree.map(
      lambda s: s.sharding, _quantized_shape(like["kernel"], method))
    # Waiting frees the dense kernel before the next one is quantised.
    layer["kernel"] = jax.block_until_ready(jax.jit(
      functools.partial(_quantize, method), out_shardings=placed)(
        layer["kernel"]))


def _quantized_shape(kernel: Any, method: str) -> Any:
  return jax.tree.map(
    functools.partial(_shard_like, kernel),
    jax.eval_shape(functools.partial(_quantize, method), kernel))


def _quantize(method: str, kernel: jax.Array) -> Any:
  """Quantises a stack [layers, in, out] or [layers, experts, in, out].

  Each matrix by itself.
  """
  import qwix
  if kernel.ndim == 2:
    return qwix.quantize(kernel, **METHODS[method])
  return jax.lax.map(functools.partial(_quantize, method), kernel)


def _shard_like(
  kernel: Any, part: jax.ShapeDtypeStruct
) -> jax.ShapeDtypeStruct:
  """Gives `part`, the values or the scales, the sharding of the kernel."""
  sharding = kernel.sharding
  if isinstance(sharding, NamedSharding):
    # One scale serves several inputs, so an axis of scales can be too short to
    # be split as the kernel's is; such an axis is replicated.
    mesh = sharding.mesh
    spec = [None if axis is None or size % mesh.shape[axis] else axis
            for size, axis in zip(part.shape, sharding.spec, strict=True)]
    sharding = NamedSharding(mesh, P(*spec))
  return jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=sharding)
