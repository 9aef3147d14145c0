"""Frozen matrices in int8 or NF4, as qwix's arrays, an optional dependency.

A matrix [in, out] of a layer is stored in int8 with a scale per output, or in
NormalFloat4 (QLoRA, arXiv 2305.14314) with a scale per 64 inputs of an output.
It is made dense again where it is used, one layer at a time; gradients go
through it to the activations, and there are none for the matrix itself.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

# Of qwix.quantize, for one layer's matrix.
METHODS = {
  "int8": dict(qtype=jnp.int8, channelwise_axes=(1,)),
  "nf4": dict(qtype="nf4", channelwise_axes=(1,), tiled_axes={0: 64}),
}


def is_quantized(leaf: Any) -> bool:
  """Whether `leaf` is a quantised matrix."""
  return hasattr(leaf, "qvalue")


def dense(matrix: Any) -> Any:
  """The matrix as an array, in the dtype of its scales."""
  if not is_quantized(matrix):
    return matrix
  import qwix
  if matrix.ndim == 2:
    return qwix.dequantize(matrix)
  return jax.lax.map(qwix.dequantize, matrix)


def shapes(params: Any, method: str, paths: tuple[str, ...]) -> Any:
  """What `quantize` makes of parameters, split as the matrices are.

  Args:
    params: nested dicts of `ShapeDtypeStruct`s.
    method: a key of `METHODS`, or "none".
    paths: of the linear maps whose kernels are quantised.
  """
  if method == "none":
    return params
  flat = traverse_util.flatten_dict(params, sep="/")
  for path in paths:
    name = path + "/kernel"
    flat[name] = _shape(flat[name], method)
  return traverse_util.unflatten_dict(flat, sep="/")


def quantize(
  params: Any, abstract: Any, method: str, paths: tuple[str, ...]
) -> None:
  """Quantises matrices in place, so that one at a time is there twice.

  Args:
    params: nested dicts of arrays.
    abstract: their `ShapeDtypeStruct`s; other arguments as of `shapes`.
  """
  if method == "none":
    return
  for path in paths:
    layer, like = params, abstract
    for name in path.split("/"):
      layer, like = layer[name], like[name]
    placed = jax.tree.map(
      lambda s: s.sharding, _shape(like["kernel"], method))
    layer["kernel"] = jax.block_until_ready(jax.jit(
      functools.partial(_quantize, method), out_shardings=placed)(
        layer["kernel"]))


def _shape(kernel, method: str) -> Any:
  return jax.tree.map(
    functools.partial(_split_as, kernel),
    jax.eval_shape(functools.partial(_quantize, method), kernel))


def _quantize(method: str, kernel: jax.Array) -> Any:
  """[layers, in, out], layer by layer."""
  import qwix
  return jax.lax.map(
    lambda w: qwix.quantize(w, **METHODS[method]), kernel)


def _split_as(kernel, part):
  """The shape `part` of values or scales with the kernel's sharding."""
  sharding = kernel.sharding
  if isinstance(sharding, NamedSharding):
    # A scale stands for several inputs; there may be too few to split.
    mesh = sharding.mesh
    spec = [None if axis is None or size % mesh.shape[axis] else axis
            for size, axis in zip(part.shape, sharding.spec, strict=True)]
    sharding = NamedSharding(mesh, P(*spec))
  return jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=sharding)
