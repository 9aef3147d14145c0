"""Devices by the name of an accelerator, which need not be present.

`v5e-64`, `v5p-32`, `v6e-8` and `7x-16` are sizes as Google Cloud names them:
chips of v5e and v6e, cores of v5p and TPU7x, which have two cores per chip.
`v5p:2x2x4` gives the chips along each axis of the torus; `2xv5e-16` means two
slices; `h100-8` means the GPUs of one host, `h100-16` two hosts with eight
each; `cpu-8` splits this machine's CPU; `cpu` and `gpu` are what JAX finds.
"""

import importlib.util
import os
import re

import jax

from dlrl import strict
from dlrl.costs import gpu_targets

# The compiler's name; axes of the torus; cores per chip in the size.
KINDS = {
  "v5e": ("v5e", 2, 1), "v6e": ("v6e", 2, 1),
  "v5p": ("v5", 3, 2), "7x": ("tpu7x", 3, 2),
}
# Chips of the slices that have a name, by number of axes.
POD = {2: (1, *(2**n for n in range(2, 9))), 3: [2**n for n in range(2, 13)]}
HOST = (2, 2, 1)  # chips of one host along each axis
_TPU = re.compile(
  r"(?:(?P<slices>\d+)x)?(?:tpu)?(?P<kind>\w+?)"
  r"(?:-(?P<size>\d+)|:(?P<axes>\d+(?:x\d+)+))")
_GPU = re.compile(rf"({'|'.join(gpu_targets.TARGETS)})-([1-9]\d*)")
GPUS = 8  # of a host
# Autotuning measures kernels, which needs a GPU.
_NO_GPU = "--xla_gpu_autotune_level=0"
# Without these, libtpu looks for chips and asks a metadata server.
_NO_TPU = {
  "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices(name: str, field: str = "compile_only") -> list[jax.Device]:
  """The devices of `name`; call this before JAX creates its own.

  Args:
    name: an accelerator, see above.
    field: name of the flag, for messages.

  Raises:
    strict.FlagError: `name` is unknown, or the compiler is not installed.
  """
  if match := re.fullmatch(r"(cpu|gpu)(?:-([1-9]\d*))?", name):
    return _of_host(match[1], match[2], name, field)
  if match := _GPU.fullmatch(name):
    return _of_gpus(gpu_targets.TARGETS[match[1]], int(match[2]), name, field)
  slices, layout = parse(name, field)
  if importlib.util.find_spec("libtpu") is None:
    raise strict.FlagError(
      field, name, "needs the compiler for TPUs: pip install 'jax[tpu]'")
  for key, value in _NO_TPU.items():
    os.environ.setdefault(key, value)
  # This machine only compiles, whatever accelerator it has.
  jax.config.update("jax_platforms", "cpu")
  from jax.experimental import topologies  # creates a backend on import
  axes = [int(n) for n in layout.partition(":")[2].split("x")]
  axes += [1] * (3 - len(axes))
  try:
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=layout, num_slices=slices,
      chips_per_host_bounds=tuple(map(min, axes, HOST)), wrap=wrap(axes))
  except (RuntimeError, NotImplementedError, ValueError) as e:
    raise strict.FlagError(
      field, name, f"the compiler for TPUs refuses it: {e}") from e
  return list(found.devices)


def _of_gpus(
  target: gpu_targets.Target, count: int, name: str, field: str
) -> list[jax.Device]:
  if count > GPUS and count % GPUS:
    raise strict.FlagError(
      field, name, f"hosts have {GPUS} GPUs each: give at most {GPUS}, or a "
      f"multiple of {GPUS}")
  if not any(map(importlib.util.find_spec,
                 ("jax_cuda12_plugin", "jax_cuda13_plugin"))):
    raise strict.FlagError(
      field, name,
      "needs the compiler for GPUs: pip install 'dlrl[gpu_aot]'")
  os.environ["XLA_FLAGS"] = f"{_NO_GPU} {os.environ.get('XLA_FLAGS', '')}"
  jax.config.update("jax_platforms", "cpu")
  from jax._src.cudnn import fused_attention_stablehlo
  from jax.experimental import topologies  # creates a backend on import
  # JAX asks the library, which a machine without GPUs need not have.
  major, minor = gpu_targets.CUDNN
  fused_attention_stablehlo.check_cudnn_version = (
    lambda: 10_000 * major + 100 * minor)
  hosts = max(1, count // GPUS)
  return list(topologies.get_topology_desc(
    "absent", "cuda", target_config=gpu_targets.description(target),
    topology=f"1x{hosts}x{count // hosts}").devices)


def parse(name: str, field: str = "compile_only") -> tuple[int, str]:
  """`(slices, layout)` of a TPU's name: `2xv5p-16` is (2, "v5:2x2x2").

  Raises:
    strict.FlagError: an unknown accelerator or slice size.
  """
  match = _TPU.fullmatch(name)
  if match is None or match["kind"] not in KINDS:
    raise strict.FlagError(
      field, name, "unknown accelerator; use v5e-64, v5p-32, v6e-8, 7x-16 "
      "(or other sizes), v5p:2x2x4 (chips by axes), 2xv5e-16 (two slices), "
      f"{', '.join(f'{kind}-8' for kind in gpu_targets.TARGETS)}, cpu-8 or gpu")
  kind, axes, cores = KINDS[match["kind"]]
  slices = int(match["slices"] or 1)
  if slices < 1:
    raise strict.FlagError(field, name, "must have at least one slice")
  if match["axes"]:
    return slices, f"{kind}:{match['axes']}"
  chips, odd = divmod(int(match["size"]), cores)
  sizes = POD[axes]
  if odd or chips not in sizes:
    raise strict.FlagError(
      field, name, "not a valid slice size; valid sizes: "
      f"{', '.join(str(n * cores) for n in sizes)}; for others give the axes, "
      f"such as {match['kind']}:{'x'.join(['4'] * axes)}")
  return slices, f"{kind}:" + "x".join(map(str, _layout(chips, axes)))


def _layout(chips: int, axes: int) -> list[int]:
  """Chips along each axis: powers of two, as equal as possible."""
  if axes == 3 and chips == 4:
    return [2, 2, 1]  # one host
  doublings = chips.bit_length() - 1
  # Later axes get the remaining doublings.
  return [2 ** ((doublings + i) // axes) for i in range(axes)]


def wrap(axes: list[int]) -> tuple[bool, ...]:
  """Which axes wrap around: those of 16 chips in 2-D, all of whole 4x4x4 cubes.

  The compiler's choice of collectives depends on it.
  """
  if axes[2] == 1:
    return (axes[0] == 16, axes[1] == 16, False)
  return (all(n % 4 == 0 for n in axes),) * 3


def _of_host(platform: str, parts: str | None, name: str, field: str
             ) -> list[jax.Device]:
  if platform == "cpu":
    jax.config.update("jax_platforms", "cpu")
    if parts:
      jax.config.update("jax_num_cpu_devices", int(parts))
    return jax.devices()
  try:
    found = jax.devices("gpu")
  except RuntimeError as e:
    raise strict.FlagError(
      field, name, f"this machine has no GPU: {e}") from e
  wanted = int(parts or len(found))
  if wanted > len(found):
    raise strict.FlagError(
      field, name, f"this machine has only {len(found)} GPUs")
  return found[:wanted]
