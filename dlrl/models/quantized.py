"""Matrices in few bits: frozen ones, and those of rollouts.

Frozen matrices are beneath adapters, and need the optional dependency qwix. A
layer's matrix [in, out] is stored in int8 with one scale per output, or in
NormalFloat4 (QLoRA, arXiv 2305.14314) with one scale per 64 inputs of each
output. It is dequantised where it is used, one layer at a time. Gradients flow
through the dense matrix to the activations; the matrix itself has none.

Those of rollouts (`EightBits`) are not dequantised, but multiplied in 8 bits,
by activations that are rounded as well. They have no gradients.
"""

import functools
from typing import Any

import flax.struct
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

# Formats of products in 8 bits: values of `sampler.quantize`, besides "none".
PRODUCTS = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}


@flax.struct.dataclass
class EightBits:
  """A matrix that is multiplied in 8 bits, or a stack of them.

  Attributes:
    values: [..., in, out] int8 or fp8.
    scale: [..., 1, out] fp32; the matrix is about values times scale.
    parts: so many equal parts of the inputs, such as those that are on
      different devices, have scales of activations of their own.
  """

  values: jax.Array
  scale: jax.Array
  parts: int = flax.struct.field(pytree_node=False)


def eight_bits(kernel: Any, method: str, parts: int) -> EightBits:
  """Rounds a stack of matrices [layers, in, out], quantised ones as well.

  Args:
    kernel: the stack.
    method: a key of `PRODUCTS`.
    parts: divides the inputs, see `EightBits`.
  """
  return EightBits(*_rounded(dense(kernel), 1, PRODUCTS[method]), parts)


def product(x: jax.Array, matrix: EightBits) -> jax.Array:
  """Multiplies x [..., in] by a matrix [in, out], both of them in 8 bits.

  Each vector of `x`, or each of its `parts`, is rounded with a scale of its
  own. Sums are int32; those of fp8 are fp32, rounded to the dtype of `x`.

  Returns:
    [..., out] in the dtype of `x`.
  """
  n, (inputs, outputs) = matrix.parts, matrix.values.shape
  kind = matrix.values.dtype
  values, scale = _rounded(
    x.reshape(*x.shape[:-1], n, inputs // n), -1, kind)
  sums = jax.lax.dot_general(
    values, matrix.values.reshape(n, inputs // n, outputs),
    (((x.ndim,), (1,)), ((x.ndim - 1,), (0,))),
    preferred_element_type=jnp.int32 if kind == jnp.int8 else x.dtype)
  scaled = (sums * jnp.moveaxis(scale, -2, 0)
            * matrix.scale.reshape(*(1,) * x.ndim, outputs)).astype(x.dtype)
  # Parts are added in the dtype of `x`, in which devices exchange them;
  # `jnp.sum` would do it in fp32.
  total: jax.Array = jax.lax.reduce(
    scaled, jnp.zeros((), x.dtype), jax.lax.add, (0,))
  return total


def _rounded(
  x: jax.Array, axis: int, kind: Any
) -> tuple[jax.Array, jax.Array]:
  """Values in `kind`, and fp32 scales along `axis`: x is about their product.

  Not `qwix.quantize`, whose scale puts the largest value midway between two
  integers, so that it is rounded as the compiler likes.
  """
  whole = jnp.issubdtype(kind, jnp.integer)
  top = float((jnp.iinfo if whole else jnp.finfo)(kind).max)
  x = x.astype(jnp.float32)
  largest = jnp.maximum(
    jnp.max(jnp.abs(x), axis, keepdims=True), 1e-30)  # not to divide by 0
  values = x * (top / largest)
  return (jnp.round(values) if whole else values).astype(kind), largest / top


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
