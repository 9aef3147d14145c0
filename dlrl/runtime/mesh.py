"""The device mesh and every sharding decision.

Axes: `data` (replicas; shards the batch), `expert` (shards the experts of a
layer and the batch), `fsdp` (shards parameters and batch), `tensor` (shards
matrix products). All are Auto axes: XLA propagates the shardings of parameters
and batch, which are fixed only in this file.

Code that says itself what devices exchange is in `sharding.by_hand`.
"""

import functools
import math
import os
import re
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl import strict

# Ordered by increasing traffic: JAX puts devices that are neighbours on the
# last axis nearest to each other, and `tensor` communicates in every layer.
AXES = ("data", "expert", "fsdp", "tensor")
BATCH = ("data", "expert", "fsdp")


def split_cpu(parts: int, processes: int = 1) -> None:
  """Splits the host's CPU into several JAX devices.

  XLA runs the operations of a small model on one core, but runs devices in
  parallel. Call this before JAX creates its devices.

  Args:
    parts: devices over all processes; 0: JAX's default.
    processes: processes of the job, each of which gets an equal part.

  Raises:
    strict.ConfigError: `parts` is not a multiple of `processes`, or JAX has
      its devices already.
  """
  strict.require(
    parts % processes == 0, "mesh.cpu_devices", parts,
    f"must be a multiple of the {processes} processes, which share the devices")
  if not parts:
    return
  try:
    jax.config.update("jax_num_cpu_devices", parts // processes)
  except RuntimeError as e:
    raise strict.ConfigError(
      "mesh.cpu_devices", parts, "JAX has made its devices already, which it "
      "does for the first array: a module of yours should make arrays in "
      "functions, not while it is imported") from e


def prefer_cpu() -> None:
  """Makes the CPU JAX's only device, unless JAX_PLATFORMS says otherwise.

  For programs whose arrays one accelerator may not hold, and which would wait
  for the other hosts of a pod. Call this before JAX creates its devices.
  """
  if not os.environ.get("JAX_PLATFORMS"):
    jax.config.update("jax_platforms", "cpu")


def found() -> list[jax.Device]:
  """All devices of the job.

  Raises:
    strict.VariableError: JAX finds none of the kind that JAX_PLATFORMS names.
  """
  try:
    return jax.devices()
  except (RuntimeError, AssertionError) as e:  # the latter for "cuda"
    named = os.environ.get("JAX_PLATFORMS")
    if not named:
      raise
    raise strict.VariableError(
      "JAX_PLATFORMS", named, "JAX finds no such device here; unset it, or "
      f"install what JAX needs for it: {str(e) or 'its plugin'}") from e


def make(cfg: config.MeshConfig, devices: Sequence[Any] | None = None
         ) -> jax.sharding.Mesh:
  """The mesh over `devices`; None: over all.

  Raises:
    strict.ConfigError: there are no devices, or the sizes do not multiply to
      their number.
  """
  devices = found() if devices is None else devices
  sizes = [cfg.data, cfg.expert, cfg.fsdp, cfg.tensor]
  text = ", ".join(
    f"{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
  strict.require(
    sizes.count(-1) <= 1 and all(s == -1 or s > 0 for s in sizes),
    "mesh", text, "sizes must be positive; at most one may be -1")
  known = math.prod(s for s in sizes if s != -1)
  if -1 in sizes:
    sizes[sizes.index(-1)] = len(devices) // known
  strict.require(
    math.prod(sizes) == len(devices), "mesh", text,
    f"must multiply to the {len(devices)} devices of this job; "
    "set one axis to -1 to use all")
  slices = len({getattr(d, "slice_index", 0) for d in devices
                if d.platform == "tpu"})
  if slices > 1:
    return _of_slices(sizes, slices, devices)
  return jax.make_mesh(
    tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES),
    devices=devices)


def _of_slices(sizes: list[int], slices: int, devices: Sequence[Any]
               ) -> jax.sharding.Mesh:
  """A mesh over several TPU slices; only `data` crosses their slow network."""
  strict.require(
    sizes[0] % slices == 0, "mesh.data", sizes[0],
    f"must be a multiple of the {slices} slices: parameters must not be "
    "gathered across slices")
  within = (sizes[0] // slices, *sizes[1:])
  return jax.sharding.Mesh(
    mesh_utils.create_hybrid_device_mesh(
      within, (slices, 1, 1, 1), devices),
    AXES, axis_types=(AxisType.Auto,) * len(AXES))


def platform() -> str:
  """Platform of the mesh in use; without one, of JAX's default backend."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return jax.default_backend() if device is None else device.platform


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
  """Shards axis 0 over `data`, `expert` and `fsdp`."""
  # All of them: with FSDP each device has rows of its own, or the parameters
  # would be gathered to compute the same thing several times.
  return NamedSharding(mesh, P(BATCH))


def shards(sizes: Mapping[str, int]) -> int:
  """Devices, or groups of them, that have rows of their own.

  Args:
    sizes: devices by axis, `mesh.shape`.
  """
  return math.prod(sizes[axis] for axis in BATCH)


def batch_rows(mesh: jax.sharding.Mesh, items: int, most: int) -> int:
  """Rows of a batch for `items` rows: at most `most`, a multiple of the shards.

  `most` is one as well.
  """
  parts = shards(mesh.shape)
  return min(most, -(-items // parts) * parts)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
  """A full copy on every device."""
  return NamedSharding(mesh, P())


def constrain(x: jax.Array, *spec: Any) -> jax.Array:
  """Pins `x` to `P(*spec)` on the mesh in use, if there is one."""
  # Losses and models also run in other people's programs, without a mesh.
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, _automatic(P(*spec)))


def _automatic(spec: P) -> P:
  """`spec` without the axes over which the program is split by hand."""
  manual = jax.sharding.get_abstract_mesh().manual_axes
  return keep(spec, lambda axis: axis not in manual) if manual else spec


def keep(spec: P, wanted: Callable[[str], bool]) -> P:
  """`spec` with those of its mesh axes that are `wanted`."""
  def one(axis: Any) -> Any:
    if axis is None or isinstance(axis, str):
      return axis if axis and wanted(axis) else None
    return tuple(filter(wanted, axis)) or None

  return P(*map(one, spec))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(x: jax.Array, spec: P, home: P) -> jax.Array:
  """`x` constrained to `spec`, and its gradient constrained to `home`.

  `constrain` would apply `spec` to the gradient, too: each device would then
  hold the whole summed gradient instead of its shard.
  """
  del home
  return constrain(x, *spec)


def _gathered(x, spec, home):
  return gathered(x, spec, home), None


gathered.defvjp(_gathered, lambda spec, home, _, g: (constrain(g, *home),))


def shard_batch(x: jax.Array) -> jax.Array:
  """Constrains axis 0 to the batch axes.

  Otherwise XLA may move the batch instead of gathering a layer's parameters.
  """
  return constrain(x, BATCH, *(None,) * (x.ndim - 1))


def batch_parts(rows: int) -> int:
  """Number of devices that `shard_batch` splits `rows` rows over.

  1 without a mesh, or if `rows` is not a multiple of its batch axes. By hand,
  rows are a device's own.
  """
  mesh = jax.sharding.get_abstract_mesh()
  parts = math.prod(mesh.shape.get(axis, 1) for axis in BATCH
                    if axis not in mesh.manual_axes)
  return 1 if rows % parts else parts


def on_each_device(
  fn: Callable[..., Any], in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """`fn` applied to each device's shard; without a mesh, to whole arrays.

  For functions that XLA cannot partition. Axes must divide evenly.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return fn
  in_specs, out_specs = jax.tree.map(_automatic, (in_specs, out_specs))
  return jax.shard_map(
    fn, in_specs=in_specs, out_specs=out_specs, check_vma=False,
    axis_names=set(mesh.axis_names) - set(mesh.manual_axes))


def param_shardings(
  mesh: jax.sharding.Mesh, table: Mapping[str, P], params: Any
) -> Any:
  """The shardings of `params`, as a tree of the same structure.

  Args:
    mesh: a mesh from `make`.
    table: maps regular expressions for the paths of leaves (`a/b/c`, matched in
      full) to their specs.
    params: nested dicts of anything with a shape.

  Raises:
    ValueError: a leaf matches no row of the table, or several.
    strict.ConfigError: a mesh axis does not divide an array axis.
  """

  def one(path: Any, leaf: Any) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    specs = [s for pattern, s in table.items() if re.fullmatch(pattern, name)]
    if len(specs) != 1:
      raise ValueError(f"{len(specs)} sharding rules match parameter {name!r}")
    for size, axis in zip(leaf.shape, specs[0], strict=True):
      # jit would refuse a remainder, too, but would name shapes, not settings.
      parts = mesh.shape[axis] if axis else 1
      strict.require(
        size % parts == 0, f"mesh.{axis}", parts,
        f"does not divide {size}, an axis of {name} {tuple(leaf.shape)}")
    return NamedSharding(mesh, specs[0])

  return jax.tree.map_with_path(one, params)
