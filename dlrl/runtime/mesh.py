"""The device mesh and every sharding decision.

Axes: `data` (replicas), `fsdp` (parameters split, batch split), `tensor`
(matrices split). All are Auto axes: XLA propagates from the shardings of the
parameters and of the batch, which are fixed here and nowhere else.
"""

import functools
import math
import re
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl import strict

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")


def split_cpu(parts: int, processes: int = 1) -> None:
  """Lets JAX see the host's CPU as so many devices, if it has no other ones.

  XLA runs a small model's operations on one core, whatever there is; devices
  run at the same time. To be called before JAX is asked for its devices.

  Args:
    parts: over all processes; 0: as JAX likes.
    processes: of the job, each of which gets as many.

  Raises:
    strict.ConfigError: the parts cannot be shared out equally.
  """
  strict.require(
    parts % processes == 0, "mesh.cpu_devices", parts,
    f"must be a multiple of the {processes} processes, which share them")
  if parts:
    jax.config.update("jax_num_cpu_devices", parts // processes)


def make(cfg: config.MeshConfig, devices=None) -> jax.sharding.Mesh:
  """The mesh over all devices.

  Raises:
    strict.ConfigError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [cfg.data, cfg.fsdp, cfg.tensor]
  text = "x".join(map(str, sizes))
  strict.require(
    sizes.count(-1) <= 1 and all(s == -1 or s > 0 for s in sizes),
    "mesh", text, "sizes are positive, and at most one is -1")
  known = math.prod(s for s in sizes if s != -1)
  if -1 in sizes:
    sizes[sizes.index(-1)] = len(devices) // known
  strict.require(
    math.prod(sizes) == len(devices), "mesh", text,
    f"must multiply to the {len(devices)} devices there are; "
    "set one axis to -1 to fill up")
  slices = len({getattr(d, "slice_index", 0) for d in devices
                if d.platform == "tpu"})
  if slices > 1:
    return _of_slices(sizes, slices, devices)
  return jax.make_mesh(
    tuple(sizes), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def _of_slices(sizes: list[int], slices: int, devices) -> jax.sharding.Mesh:
  """Slices of TPUs: what is gathered in every layer stays within one."""
  strict.require(
    sizes[0] % slices == 0, "mesh.data", sizes[0],
    f"must be a multiple of the {slices} slices: parameters are not to be "
    "gathered from one to another")
  within = (sizes[0] // slices, *sizes[1:])
  return jax.sharding.Mesh(
    mesh_utils.create_hybrid_device_mesh(within, (slices, 1, 1), devices),
    AXES, axis_types=(AxisType.Auto,) * 3)


def platform() -> str:
  """Of the mesh in use, which may be of devices elsewhere, or of JAX's own."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Axis 0 over data and fsdp, the rest whole."""
  return NamedSharding(mesh, P(BATCH))


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """A copy on every device."""
  return NamedSharding(mesh, P())


def constrain(x: jax.Array, *spec: Any) -> jax.Array:
  """Pins `x` to `P(*spec)` on the mesh in use, if there is one."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, P(*spec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(x: jax.Array, spec: P, home: P) -> jax.Array:
  """`x` pinned to `spec`, and its gradient to `home`.

  Pinned to `spec`, as `constrain` would have it, the sum of a gradient over
  devices would be whole on all of them.
  """
  del home
  return constrain(x, *spec)


def _gathered(x, spec, home):
  return gathered(x, spec, home), None


gathered.defvjp(_gathered, lambda spec, home, _, g: (constrain(g, *home),))


def shard_batch(x: jax.Array) -> jax.Array:
  """Pins axis 0 to the batch axes.

  Without it XLA may move the batch instead of gathering a layer's parameters.
  """
  return constrain(x, BATCH, *(None,) * (x.ndim - 1))


def batch_parts(rows: int) -> int:
  """Equal parts of so many rows that `shard_batch` puts on different devices.

  One without a mesh, or where the rows are not a multiple of its batch axes.
  """
  shape = jax.sharding.get_abstract_mesh().shape
  parts = math.prod(shape.get(axis, 1) for axis in BATCH)
  return 1 if rows % parts else parts


def on_each_device(
  fn: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """`fn` of each device's part of the arrays; of all without a mesh in use.

  For what XLA cannot divide by itself. The parts must be equal.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return fn
  return jax.shard_map(
    fn, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def param_shardings(
  mesh: jax.sharding.Mesh, table: Mapping[str, P], params: Any
) -> Any:
  """A tree of shardings for `params`, by the table of its model.

  Args:
    mesh: from `make`.
    table: pattern of a leaf's path (`a/b/c`, matched in full) to its spec.
    params: nested dicts of anything with a shape.

  Raises:
    ValueError: a leaf that matches no row or several.
    strict.ConfigError: an axis that does not divide.
  """

  def one(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    specs = [s for pattern, s in table.items() if re.fullmatch(pattern, name)]
    if len(specs) != 1:
      raise ValueError(f"{len(specs)} sharding rules match parameter {name!r}")
    for size, axis in zip(leaf.shape, specs[0], strict=True):
      parts = mesh.shape[axis] if axis else 1
      strict.require(
        size % parts == 0, f"mesh.{axis}", parts,
        f"does not divide {size}, an axis of {name} {tuple(leaf.shape)}")
    return NamedSharding(mesh, specs[0])

  return jax.tree.map_with_path(one, params)
