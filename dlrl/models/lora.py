"""Low-rank adapters (LoRA, arXiv 2106.09685) on frozen matrices.

    y = x W + alpha / rank (x A) B

W [in, out], the base, is frozen. A [in, rank] starts random and B [rank, out]
at zero, so that nothing changes before the first update. An adapter is a tree
keyed like the parameters that has `a` and `b` in the place of a `kernel`, with
the same leading axis of layers.

A model takes as its parameters those it was built for, or
`{"base": parameters, "adapter": adapter}`. Training changes one part of them
(`split`): the adapter, or without one everything.
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
from dlrl.models import linear
from dlrl.models import quantized

# The matrices of a layer, which `config.LoraConfig.targets` chooses from.
MATRICES = (
  "layers/attention/q", "layers/attention/k", "layers/attention/v",
  "layers/attention/out", "layers/mlp/gate", "layers/mlp/up",
  "layers/mlp/down")


class Linear(nnx.Linear):
  """A linear map; its matrix may be quantised and have an adapter."""

  # Set by `attach`.
  a = b = None
  scale = 1.0

  def __call__(self, x):  # type: ignore[override]
    """[..., in] to [..., out] in the compute dtype; never makes W + A B."""
    x = x.astype(self.dtype)
    # A frozen base needs no gradient, so its product keeps nothing for one.
    multiply = linear.product if self.a is None else jnp.matmul
    y = multiply(
      x, quantized.dense(self.kernel.get_value()).astype(self.dtype))
    if self.bias is not None:
      bias = self.bias.get_value().astype(self.dtype)
      y += bias.reshape((1,) * (y.ndim - 1) + (-1,))
    if self.a is not None:
      a, b = (part.get_value().astype(self.dtype) for part in (self.a, self.b))
      y += self.scale * ((x @ a) @ b)
    return y


def attach(network: Any, adapter: Any, scale: float) -> None:
  """Lets the linear maps in `network` that have a part of `adapter` use it."""
  if "a" in adapter:
    network.a, network.b = nnx.Param(adapter["a"]), nnx.Param(adapter["b"])
    network.scale = scale
    return
  for name, part in adapter.items():
    attach(getattr(network, name), part, scale)


def names(cfg: config.LoraConfig) -> tuple[str, ...]:
  """Paths of the matrices that have an adapter."""
  return tuple(x for x in MATRICES if re.fullmatch(cfg.targets, x))


def shapes(params: Any, cfg: config.LoraConfig) -> Any:
  """Shapes of an adapter, split over devices as the matrices it is for.

  Args:
    params: `ShapeDtypeStruct`s or arrays, the parameters; their shardings, if
      they have any, are named.
    cfg: with a rank.
  """
  flat = traverse_util.flatten_dict(params, sep="/")

  def shape(like, sizes, axes):
    sharding = like.sharding
    if isinstance(sharding, NamedSharding):
      spec = [None if axis is None else sharding.spec[axis] for axis in axes]
      sharding = NamedSharding(sharding.mesh, P(*spec))
    return jax.ShapeDtypeStruct(sizes, cfg.dtype, sharding=sharding)

  made = {}
  for name in names(cfg):
    kernel = flat[name + "/kernel"]
    layers, inputs, outputs = kernel.shape
    made[name + "/a"] = shape(
      kernel, (layers, inputs, cfg.rank), (0, 1, None))
    made[name + "/b"] = shape(
      kernel, (layers, cfg.rank, outputs), (0, None, 2))
  return traverse_util.unflatten_dict(made, sep="/")


def init(key: jax.Array, like: Any) -> Any:
  """A fresh adapter: A uniform in +-1 / sqrt(in), as PEFT's, and B zero.

  Args:
    key: one key.
    like: from `shapes`.
  """
  flat = traverse_util.flatten_dict(like, sep="/")
  keys = dict(zip(sorted(flat), jax.random.split(key, len(flat)), strict=True))

  def one(name, leaf):
    if name.endswith("/b"):
      return jnp.zeros(leaf.shape, leaf.dtype)
    bound = 1 / math.sqrt(leaf.shape[1])
    return jax.random.uniform(
      keys[name], leaf.shape, leaf.dtype, -bound, bound)

  return traverse_util.unflatten_dict(
    {name: one(name, leaf) for name, leaf in flat.items()}, sep="/")


def join(base: Any, trained: Any) -> Any:
  """What a model takes: an adapter on its base; base None: all parameters."""
  return trained if base is None else {"base": base, "adapter": trained}


def split(params: Any) -> tuple[Any, Any]:
  """`(base, trained)` of what a model takes; base None: all are trained."""
  if "adapter" in params:
    return params["base"], params["adapter"]
  return None, params


def merge(base: Any, adapter: Any, cfg: config.LoraConfig) -> Any:
  """`base` with alpha / rank A B added to its matrices, for export.

  The sum is made in fp32 and rounded once, layer by layer.
  """
  flat = traverse_util.flatten_dict(base, sep="/")
  parts = traverse_util.flatten_dict(adapter, sep="/")

  @jax.jit
  def of_stack(kernel, a, b):
    def of_layer(one):
      w, a, b = one
      w = quantized.dense(w)
      product = jnp.matmul(
        a.astype(jnp.float32), b.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST)
      return (w.astype(jnp.float32) + cfg.scale * product).astype(w.dtype)

    return jax.lax.map(of_layer, (kernel, a, b))

  for name in names(cfg):
    flat[name + "/kernel"] = of_stack(
      flat[name + "/kernel"], parts[name + "/a"], parts[name + "/b"])
  return jax.tree.map(
    quantized.dense, traverse_util.unflatten_dict(flat, sep="/"),
    is_leaf=quantized.is_quantized)
