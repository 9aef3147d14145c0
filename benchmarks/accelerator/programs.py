"""Programs of the stages: shapes first, arrays later."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import jax

from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import scale as scale_lib


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function and the shapes that it is compiled for.

  Attributes:
    fn: from `jax.jit`.
    args: trees of `jax.ShapeDtypeStruct`s.
    mesh: that it is traced in.
  """

  fn: Any
  args: tuple[Any, ...]
  mesh: jax.sharding.Mesh

  def lower(self, **options: Any) -> Any:
    """Lowers it; for a platform that is not there, say `lowering_platforms`."""
    with jax.set_mesh(self.mesh):
      return self.fn.trace(*self.args).lower(**options)


def compiled(
  programs: Mapping[str, Program], rows: rows_lib.Rows
) -> Iterator[tuple[str, Any]]:
  """Yields names and compiled programs; of those that fail there is a row.

  XLA compiles all of them at once, in threads, because an 8B program takes up
  to a minute. The first is not yielded before all are there, so that none
  disturbs a clock, unless half of the stage's time is over.
  """
  with futures.ThreadPoolExecutor() as pool:
    made: dict[str, futures.Future[Any]] = {}
    for name, program in programs.items():
      lowered = rows.attempt(name, program.lower)
      if lowered is not None:
        made[name] = pool.submit(lowered.compile)
    futures.wait(made.values(), timeout=min(max(rows.left, 1) / 2, 600))
    for name, future in made.items():
      found = rows.attempt(name, future.result)
      if found is not None:
        yield name, found


def seconds(fn: Callable[[], Any], times: int = 3) -> float:
  """Median seconds of calls of what has run before."""
  found = []
  for _ in range(times):
    start = time.monotonic()
    jax.block_until_ready(fn())
    found.append(time.monotonic() - start)
  return statistics.median(found)


def rate(scale: scale_lib.Scale, flops: float, took: float, devices: int
         ) -> dict[str, float]:
  """TFLOP/s of a device, and their share of its peak where that is known."""
  each = flops / took / devices
  share = {"mfu": each / scale.chip.flops} if scale.chip else {}
  return {"tflops": each / 1e12, **share}


def gib(size: float) -> float:
  """Bytes in GiB."""
  return size / 2**30


def planned(program: Any) -> float:
  """GiB that the compiler plans: arguments, temporaries and results."""
  stats = program.memory_analysis()
  return gib(stats.argument_size_in_bytes + stats.temp_size_in_bytes
             + stats.output_size_in_bytes - stats.alias_size_in_bytes)


def peak(scale: scale_lib.Scale) -> float | None:
  """GiB of the fullest device at the worst moment so far; None: unknown."""
  found = [stats["peak_bytes_in_use"] for d in scale.devices
           if "peak_bytes_in_use" in (stats := d.memory_stats() or {})]
  return gib(max(found)) if found else None
