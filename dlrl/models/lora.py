"""Low-rank adapters (LoRA, arXiv 2106.09685) on frozen matrices.

    y = x W + alpha / rank (x A) B

W [in, out], the base, is frozen. A [in, rank] starts random and B [rank, out]
starts at zero, so that a fresh adapter changes nothing. An adapter is a tree
with the paths of the parameters, in which `a` and `b` replace `kernel`; both
have the same leading axes, of layers and of experts, as the kernel.

A model takes either plain parameters or `{"base": parameters, "adapter":
adapter}`. Training changes one part of these (`split`): the adapter if there is
one, otherwise all parameters.
"""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax import traverse_util
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl import strict
from dlrl.models import quantized

# The matrices of a layer; `config.lora.targets` selects some of them. A layer
# has those of an MLP, or of a shared expert and of routed ones.
MATRICES = (
  "layers/attention/q", "layers/attention/k", "layers/attention/v",
  "layers/attention/out", "layers/mlp/gate", "layers/mlp/up",
  "layers/mlp/down", "layers/mlp/shared/gate", "layers/mlp/shared/up",
  "layers/mlp/shared/down", "layers/mlp/experts/gate",
  "layers/mlp/experts/up", "layers/mlp/experts/down")


def attach(network: Any, adapter: Any, scale: float) -> None:
  """Gives every `linear.Linear` in `network` its part of `adapter`, in place.

  Args:
    network: an NNX module.
    adapter: nested dicts, keyed by the attributes of `network`.
    scale: alpha / rank.
  """
  if "a" in adapter:
    network.a, network.b = nnx.Param(adapter["a"]), nnx.Param(adapter["b"])
    network.scale = scale
    return
  for name, part in adapter.items():
    attach(getattr(network, name), part, scale)


def names(cfg: config.LoraConfig) -> tuple[str, ...]:
  """Returns the paths in `MATRICES` that `cfg.targets` matches in full."""
  return tuple(x for x in MATRICES if re.fullmatch(cfg.targets, x))


def paths(params: Any, names: tuple[str, ...]) -> tuple[str, ...]:
  """The paths of linear maps of `names` that the parameters have.

  Args:
    params: nested dicts.
    names: some of `MATRICES`; the first layers of a model with experts have
      theirs in `dense_layers/`.
  """
  flat = traverse_util.flatten_dict(params, sep="/")
  return tuple(path for name in names for path in (name, f"dense_{name}")
               if f"{path}/kernel" in flat)


def shapes(params: Any, cfg: config.LoraConfig) -> Any:
  """Returns the adapter as `ShapeDtypeStruct`s, sharded like its matrices.

  A is split along `in` and B along `out` as the kernel is; the rank is whole on
  every device.

  Args:
    params: the parameters, arrays or `ShapeDtypeStruct`s. Where one has a
      `NamedSharding`, its adapter gets one too.
    cfg: rank, targets and dtype of the adapter; the rank is at least 1.

  Raises:
    strict.ConfigError: the targets are no matrices of this model.
  """
  flat = traverse_util.flatten_dict(params, sep="/")

  def shape(
    like: Any, sizes: tuple[int, ...], axes: tuple[int | None, ...]
  ) -> jax.ShapeDtypeStruct:
    sharding = like.sharding
    if isinstance(sharding, NamedSharding):
      spec = [None if axis is None else sharding.spec[axis] for axis in axes]
      sharding = NamedSharding(sharding.mesh, P(*spec))
    return jax.ShapeDtypeStruct(sizes, cfg.dtype, sharding=sharding)

  found = paths(params, names(cfg))
  strict.require(
    len(found) > 0, "lora.targets", cfg.targets,
    f"must match a matrix of this model: {', '.join(paths(params, MATRICES))}")
  adapter = {}
  for name in found:
    kernel = flat[name + "/kernel"]
    *stack, inputs, outputs = kernel.shape  # of layers, and of their experts
    axes, n = tuple(range(len(stack))), len(stack)
    adapter[name + "/a"] = shape(
      kernel, (*stack, inputs, cfg.rank), (*axes, n, None))
    adapter[name + "/b"] = shape(
      kernel, (*stack, cfg.rank, outputs), (*axes, None, n + 1))
  return traverse_util.unflatten_dict(adapter, sep="/")


def init(key: jax.Array, like: Any) -> Any:
  """Draws a fresh adapter: A uniform in +-1 / sqrt(in), as in PEFT; B zero.

  Args:
    key: a PRNG key.
    like: shapes and dtypes, from `shapes`.
  """
  flat = traverse_util.flatten_dict(like, sep="/")
  # Sorted, so that a key does not depend on the order of a dict.
  keys = dict(zip(sorted(flat), jax.random.split(key, len(flat)), strict=True))

  def draw(name: str, leaf: Any) -> jax.Array:
    if name.endswith("/b"):
      return jnp.zeros(leaf.shape, leaf.dtype)
    bound = 1 / math.sqrt(leaf.shape[-2])
    return jax.random.uniform(
      keys[name], leaf.shape, leaf.dtype, -bound, bound)

  return traverse_util.unflatten_dict(
    {name: draw(name, leaf) for name, leaf in flat.items()}, sep="/")


def join(base: Any, trained: Any) -> Any:
  """Returns what a model takes; the inverse of `split`."""
  return trained if base is None else {"base": base, "adapter": trained}


def split(params: Any) -> tuple[Any, Any]:
  """Splits what a model takes into `(base, trained)`.

  Without an adapter, base is None and all parameters are trained.
  """
  if "adapter" in params:
    return params["base"], params["adapter"]
  return None, params


def merge(base: Any, adapter: Any, cfg: config.LoraConfig) -> Any:
  """Adds alpha / rank A B to the matrices of `base`, for export.

  The sum is taken in fp32 and rounded once. Quantised matrices become dense.
  """
  flat = traverse_util.flatten_dict(base, sep="/")
  parts = traverse_util.flatten_dict(adapter, sep="/")

  @jax.jit
  def merge_stack(kernel: Any, a: jax.Array, b: jax.Array) -> jax.Array:
    def merge_layer(layer: Any) -> jax.Array:
      matrix, a, b = layer
      w: jax.Array = quantized.dense(matrix)
      # The default precision of a product is bf16 on a TPU.
      change = jnp.matmul(
        a.astype(jnp.float32), b.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST)
      return (w.astype(jnp.float32) + cfg.scale * change).astype(w.dtype)

    # Layer by layer, or the whole stack would exist in fp32.
    merged: jax.Array = jax.lax.map(merge_layer, (kernel, a, b))
    return merged

  for name in paths(base, names(cfg)):
    flat[name + "/kernel"] = merge_stack(
      flat[name + "/kernel"], parts[name + "/a"], parts[name + "/b"])
  return jax.tree.map(
    quantized.dense, traverse_util.unflatten_dict(flat, sep="/"),
    is_leaf=quantized.is_quantized)
