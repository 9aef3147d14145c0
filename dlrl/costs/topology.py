"""Devices by the name of an accelerator, which need not be there.

`v5e-64`, `v5p-32`, `v6e-8`, `7x-16`: sizes as Google Cloud names them, chips of
v5e and v6e, cores of v5p and TPU7x, which have two per chip. `v5p:2x2x4` gives
the chips along each axis instead, `2xv5e-16` two slices. `cpu-8` are parts of
this machine's CPU, `cpu` and `gpu` what JAX finds.
"""

import importlib.util
import os
import re

import jax

from dlrl import strict

# What the compiler calls them; axes of the torus; cores that a size counts.
KINDS = {
  "v5e": ("v5e", 2, 1), "v6e": ("v6e", 2, 1),
  "v5p": ("v5", 3, 2), "7x": ("tpu7x", 3, 2),
}
# Chips of a slice that has a name, by the number of axes: powers of two.
POD = {2: (1, *(2**n for n in range(2, 9))), 3: [2**n for n in range(2, 13)]}
HOST = (2, 2, 1)  # chips of one host, along the axes
_TPU = re.compile(
  r"(?:(?P<slices>\d+)x)?(?:tpu)?(?P<kind>\w+?)"
  r"(?:-(?P<size>\d+)|:(?P<axes>\d+(?:x\d+)+))")
# Or libtpu looks for chips, and asks a metadata server for them.
_NO_TPU = {
  "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices(name: str, field: str = "compile_only") -> list[jax.Device]:
  """The devices of `name`; to be called before JAX looks for its own.

  Args:
    name: see above.
    field: of the flag, for messages.

  Raises:
    strict.FlagError: no such accelerator, or its compiler is not installed.
  """
  if match := re.fullmatch(r"(cpu|gpu)(?:-([1-9]\d*))?", name):
    return _of_host(match[1], match[2], name, field)
  slices, layout = parse(name, field)
  if importlib.util.find_spec("libtpu") is None:
    raise strict.FlagError(
      field, name, "needs the compiler for TPUs: pip install 'dlrl[tpu]'")
  for key, value in _NO_TPU.items():
    os.environ.setdefault(key, value)
  # Whatever this machine has, it is only to compile.
  jax.config.update("jax_platforms", "cpu")
  from jax.experimental import topologies  # asks for a backend
  axes = [int(n) for n in layout.partition(":")[2].split("x")]
  axes += [1] * (3 - len(axes))
  try:
    found = topologies.get_topology_desc(
      platform="tpu", topology_name=layout, num_slices=slices,
      chips_per_host_bounds=tuple(map(min, axes, HOST)), wrap=wrap(axes))
  except (RuntimeError, NotImplementedError, ValueError) as e:
    raise strict.FlagError(
      field, name, f"the compiler for TPUs does not take it: {e}") from e
  return list(found.devices)


def parse(name: str, field: str = "compile_only") -> tuple[int, str]:
  """`(slices, layout)` of a TPU's name: `2xv5p-16` is (2, "v5:2x2x2").

  Raises:
    strict.FlagError: not a name, or not a size there is.
  """
  match = _TPU.fullmatch(name)
  if match is None or match["kind"] not in KINDS:
    raise strict.FlagError(
      field, name, "names no accelerator; there are v5e-64 and other sizes, "
      "v5p-32, v6e-8, 7x-16, v5p:2x2x4 by axes, 2xv5e-16 of two slices, cpu-8, "
      "gpu")
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
      field, name, "is no size of a slice; there are "
      f"{', '.join(str(n * cores) for n in sizes)}; others by their axes, "
      f"{match['kind']}:{'x'.join(['4'] * axes)}")
  return slices, f"{kind}:" + "x".join(map(str, _layout(chips, axes)))


def _layout(chips: int, axes: int) -> list[int]:
  """Chips along each axis, as equal as powers of two can be."""
  if axes == 3 and chips == 4:
    return [2, 2, 1]  # one host
  doublings = chips.bit_length() - 1
  # The later axes are the longer ones.
  return [2 ** ((doublings + i) // axes) for i in range(axes)]


def wrap(axes: list[int]) -> tuple[bool, ...]:
  """Which axes are rings: of v5e and v6e those of 16 chips, of whole cubes all.

  It decides how the compiler gathers and sums.
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
      field, name, f"this machine has {len(found)} GPUs")
  return found[:wanted]
