"""Measures checkpoints: bytes, the time that a step waits, checksums.

    python -m benchmarks.checkpoint_cost --gib=1

Saves and restores a state of fp32 arrays of 32 MiB on the devices that are
there. A save blocks the run until the checksums are computed and the arrays are
copied for the threads that write them. Besides the seconds of the clock it
gives processor seconds, which other programs on the machine hardly change.

Writes `checkpoint_cost.json` and prints a table.
"""

import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
from absl import app
from absl import flags
from absl import logging

from benchmarks import results
from dlrl.storage import array_checksums
from dlrl.storage import checkpoint

GIB = flags.DEFINE_float("gib", 1.0, "size of the state", 0.03125)
REPEATS = flags.DEFINE_integer("repeats", 3, "saves and restores", 1)
_ARRAY = 1 << 23  # elements


def timed(act: Callable[..., Any], *args: Any
          ) -> tuple[dict[str, float], Any]:
  """Seconds of the clock and of all threads, and what `act` returns."""
  wall, cpu = time.perf_counter(), time.process_time()
  found = act(*args)
  return {"wall": time.perf_counter() - wall,
          "cpu": time.process_time() - cpu}, found


def measure() -> dict[str, Any]:
  """Seconds of each part, of all repetitions but a first one, and bytes."""
  count = round(GIB.value * (1 << 28) / _ARRAY)
  state = jax.block_until_ready({"params": {
    f"w{i}": jax.random.normal(jax.random.key(i), (1 << 10, _ARRAY >> 10))
    for i in range(count)}})
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    state)
  batches = iter(grain.MapDataset.range(8).repeat().to_iter_dataset())
  parts: dict[str, list[dict[str, float]]] = {
    name: [] for name in ("checksums", "save, blocked", "save, whole",
                          "restore")}
  with (tempfile.TemporaryDirectory() as directory,
        checkpoint.Checkpoints(directory, keep=1) as checkpoints):
    for step in range(REPEATS.value + 1):
      state = jax.block_until_ready(jax.tree.map(lambda x: x + 1, state))
      sums, _ = timed(array_checksums.leaves, state)
      blocked, _ = timed(checkpoints.save, step, state, batches, {})
      rest, _ = timed(checkpoints.wait)
      whole = {unit: blocked[unit] + rest[unit] for unit in blocked}
      restore, found = timed(
        checkpoints.restore_latest, abstract, batches)
      assert found is not None
      jax.tree.map(np.testing.assert_array_equal, found[0], state)
      if step:  # the first one compiles
        for name, seconds in zip(
            parts, (sums, blocked, whole, restore), strict=True):
          parts[name].append(seconds)
    written = sum(path.stat().st_size for path in pathlib.Path(
      directory).rglob("*") if path.is_file())
  return {"command": results.command(), "device": jax.devices()[0].device_kind,
          "bytes": count * _ARRAY * jnp.dtype("float32").itemsize,
          "written": written, "seconds": parts}


def table(found: dict[str, Any]) -> str:
  """Medians per GiB of state."""
  gib = found["bytes"] / 2**30
  lines = [f"{found['bytes']} bytes of state, {found['written']} written",
           "| per GiB | processor s | clock s |", "| --- | --- | --- |"]
  for name, starts in found["seconds"].items():
    cpu, wall = (np.median([start[unit] for start in starts]) / gib
                 for unit in ("cpu", "wall"))
    lines.append(f"| {name} | {cpu:.2f} | {wall:.2f} |")
  return "\n".join(lines)


def main(args: list[str]) -> None:
  """Measures or reads, and prints the table."""
  del args
  logging.set_verbosity(logging.WARNING)
  print(table(results.obtain("checkpoint_cost", measure)), flush=True)


if __name__ == "__main__":
  app.run(main)
