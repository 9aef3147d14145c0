"""Decides when devices exchange the gradients of an update.

Left to XLA, gradients are summed over devices where they arise: in every layer,
draw and micro-batch. By hand (`run`), a device has its own rows, a gradient is
that of its rows, and what crosses devices is written down:

* Parameters that `mesh.fsdp` splits (`Split`) are gathered where they are used,
  and the sums of their gradients scattered there (`whole`). All gradients of
  the parameters would not fit on a device.
* Other gradients are summed once, after all passes (`summed`); those of experts
  that `mesh.expert` splits, over the other axes only.
"""

import functools
import math
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import flax.struct
import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from dlrl.runtime import mesh as mesh_lib


def run(
  fn: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """`fn` applied to each device's rows and parts of parameters.

  Only `tensor` is left to XLA. Axes must divide evenly.
  """
  def of_batch(spec: P) -> P:
    return mesh_lib.keep(spec, lambda axis: axis in mesh_lib.BATCH)

  in_specs, out_specs = jax.tree.map(of_batch, (in_specs, out_specs))
  return jax.shard_map(
    fn, in_specs=in_specs, out_specs=out_specs, check_vma=False,
    axis_names=set(mesh_lib.BATCH))


def splits() -> bool:
  """Tells if parameters may be `Split`: the mesh's `fsdp` is by hand."""
  return "fsdp" in jax.sharding.get_abstract_mesh().manual_axes


@flax.struct.dataclass
class Split:
  """By hand, a device's part of a parameter that is split over `fsdp`.

  Attributes:
    part: the part.
    spec: of the parameter; of a slice, the last axes count.
    sums: the dtype in which the gradient is summed over devices; None: that in
      which it was computed.
  """

  part: jax.Array
  spec: P = flax.struct.field(pytree_node=False)
  sums: str | None = flax.struct.field(pytree_node=False)


def _is_split(leaf: Any) -> bool:
  return isinstance(leaf, Split)


def split(params: Any, specs: Any, sums: str | None) -> Any:
  """`params` with a `Split` for every leaf that `fsdp` splits.

  Args:
    params: by hand, what a device has of them; otherwise they stay as they are.
    specs: a tree like `params`, their specs.
    sums: see `Split`.
  """
  def one(leaf: Any, spec: P) -> Any:
    return Split(leaf, spec, sums) if "fsdp" in tuple(spec) else leaf

  return jax.tree.map(one, params, specs) if splits() else params


def whole(tree: Any, dtype: Any = None) -> Any:
  """Gathers every `Split` of a tree, in `dtype`; other leaves stay as they are.

  Its gradient is summed over devices, each of which receives its part only.
  """
  def one(leaf: Any) -> Any:
    if not _is_split(leaf):
      return leaf
    # A layer's part has no axis of layers.
    home, spec = leaf.part.dtype, tuple(leaf.spec)[-leaf.part.ndim:]
    axis = spec.index("fsdp")

    def gather(part: jax.Array) -> jax.Array:
      return _on_tensor(functools.partial(
        jax.lax.all_gather, axis_name="fsdp", axis=axis, tiled=True), spec)(
          part.astype(dtype or home))

    def scatter(_: None, gradient: jax.Array) -> tuple[jax.Array]:
      part = _on_tensor(functools.partial(_sum_scattered, axis=axis), spec)(
        gradient.astype(leaf.sums or gradient.dtype))
      # XLA would take the sum over devices out of a loop that adds such parts
      # up: each device would hold all of the parameter's gradient.
      return (jax.lax.optimization_barrier(part).astype(home),)

    gathered = jax.custom_vjp(gather)
    # Not `gathered`, in which a remat policy would not see what is gathered.
    gathered.defvjp(lambda part: (gather(part), None), scatter)
    return gathered(leaf.part)

  return jax.tree.map(one, tree, is_leaf=_is_split)


def _on_tensor(
  fn: Callable[[jax.Array], jax.Array], spec: Iterable[Any]
) -> Callable[[jax.Array], jax.Array]:
  """By hand, `fn` of what a device has of an array that `tensor` splits, too.

  XLA would first gather it along `tensor`.
  """
  own = P(*(axis if axis == "tensor" else None for axis in spec))
  return mesh_lib.on_each_device(fn, (own,), own)


def _sum_scattered(x: jax.Array, axis: int) -> jax.Array:
  """The sum over `fsdp`, of which each device receives its part of `axis`."""
  scatter = functools.partial(
    jax.lax.psum_scatter, axis_name="fsdp", scatter_dimension=axis, tiled=True)
  if mesh_lib.platform() != "tpu":
    return scatter(x)
  # On a square of chips, such as 64 of a v5e, XLA would give every chip the
  # whole sum (all-reduce), to keep a part of it. Along one side of the square
  # after the other it does not, and as few bytes move.
  n = jax.lax.axis_size("fsdp")
  side = max(d for d in range(1, math.isqrt(n) + 1) if n % d == 0)
  square = np.arange(n).reshape(side, -1)
  for groups in (square.T, square):
    if groups.shape[1] > 1:
      x = scatter(x, axis_index_groups=groups.tolist())
  return x


def rows_of(table: Any, ids: jax.Array, dtype: Any) -> jax.Array:
  """Rows [b, t, d] of a table [v, d], of which a device may have some columns.

  A device looks up its columns for the rows of all devices along `fsdp`, and
  then they exchange activations. Gathering the table instead, and its gradient,
  would take gigabytes per device.

  Args:
    table: an array, or the `Split` of one along d.
    ids: [b, t] int.
    dtype: of the result.
  """
  if _is_split(table):
    ids = jax.lax.all_gather(ids, "fsdp", axis=0, tiled=True)
    return jax.lax.all_to_all(
      table.part[ids].astype(dtype), "fsdp", split_axis=0, concat_axis=2,
      tiled=True)
  rows = ("data", "expert")
  x = table[mesh_lib.constrain(ids, rows, None)].astype(dtype)
  return mesh_lib.shard_batch(mesh_lib.constrain(x, rows, None, "fsdp"))


def summed(tree: Any, specs: Any, dtype: str | None = None) -> Any:
  """By hand, the sums over all devices' rows; otherwise the tree itself.

  Args:
    tree: of a `Split`, `whole` has taken the sum over `fsdp` already.
    specs: a tree like `tree`, or a prefix of it.
    dtype: in which arrays cross devices; None: their own.
  """
  manual = jax.sharding.get_abstract_mesh().manual_axes

  def one(spec: P, leaf: Any) -> jax.Array:
    axes, x = manual, leaf
    if _is_split(leaf):
      axes, x = tuple(a for a in manual if a != "fsdp"), leaf.part
    if "expert" in tuple(spec):
      # An expert has computed the rows of all devices along the axis.
      axes = tuple(a for a in axes if a != "expert")
    return _on_tensor(functools.partial(jax.lax.psum, axis_name=axes), spec)(
      x.astype(dtype or x.dtype)).astype(x.dtype)

  return jax.tree.map(
    lambda spec, part: jax.tree.map(
      functools.partial(one, spec), part, is_leaf=_is_split),
    specs, tree) if manual else tree
