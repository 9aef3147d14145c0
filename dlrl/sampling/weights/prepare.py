"""Matrices of the layers as decoding takes them: gathered, and in 8 bits."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from dlrl.models import layers
from dlrl.models import quantized
from dlrl.runtime import mesh as mesh_lib


def gathered(params: Any, dtype: str) -> Any:
  """Gathers the matrices of all layers along `fsdp`, cast to `dtype`.

  Programs that run layers many times on few tokens otherwise move all of them
  between devices every time. Adapters and quantised matrices stay split.

  Args:
    params: as `Model.hidden` takes them.
    dtype: the compute dtype, to which a layer would cast them.
  """
  def one(leaf: Any, spec: P) -> Any:
    spec = mesh_lib.keep(spec, lambda axis: axis != "fsdp")
    if isinstance(leaf, quantized.EightBits):
      return dataclasses.replace(
        leaf, values=mesh_lib.constrain(leaf.values, *spec))
    if quantized.is_quantized(leaf):
      return leaf
    return mesh_lib.constrain(leaf.astype(dtype), *spec)

  return _of_matrices(one, params)


def in_eight_bits(params: Any, method: str) -> Any:
  """Rounds the matrices of attention and MLPs to 8 bits, for rollouts.

  Experts, routers, adapters, the embedding and the head stay as they are.

  Args:
    params: as `Model.hidden` takes them.
    method: a key of `quantized.PRODUCTS`.
  """
  tensor = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)

  def one(leaf: Any, spec: P) -> Any:
    if "expert" in spec or "tensor" not in spec:
      return leaf
    # Of inputs that are split, each device rounds its own: a common scale would
    # have to be exchanged first, and sums would be exchanged in 32 bits.
    matrix = quantized.eight_bits(
      leaf, method, tensor if spec[1] == "tensor" else 1)
    return dataclasses.replace(
      matrix, values=mesh_lib.constrain(matrix.values, *spec))

  return _of_matrices(one, params)


def _of_matrices(change: Callable[[Any, P], Any], params: Any) -> Any:
  """`params` with each matrix of the layers changed, given its spec."""
  def one(path: Any, leaf: Any) -> Any:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    for pattern, spec in layers.SHARDING.items():
      if ("layers/" in pattern and "fsdp" in spec
          and re.fullmatch(f"(base/)?{pattern}", name)):
        return change(leaf, spec)
    return leaf

  return jax.tree.map_with_path(one, params, is_leaf=lambda x: isinstance(
    x, quantized.EightBits) or quantized.is_quantized(x))
