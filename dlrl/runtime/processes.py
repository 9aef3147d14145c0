"""The processes of one job, each with its own devices: joining, exchanging.

Every process runs the same program on the same config. Arrays are split over
the devices of all; what the host computes from rows, such as rewards, it
computes for those on its own devices and tells the others.
"""

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NoReturn

import jax
import numpy as np
from jax._src import distributed  # its number of processes makes no devices
from jax.experimental import multihost_utils

from dlrl import strict
from dlrl.runtime import parent_process

# By name, since errors travel between processes as JSON.
_ERRORS = {kind.__name__: kind for kind in (
  strict.ConfigError, strict.FlagError, strict.ArgumentError)}
# Of errors that a process has for no other reason than the end of another.
_LOST = re.compile(r"\b(gloo|nccl|heartbeats?|coordination service)\b", re.I)
_TOGETHER = 5  # seconds in which processes end that end for the same reason


@dataclasses.dataclass(frozen=True)
class Job:
  """How this process finds the others.

  Attributes:
    detect: whether SLURM, GKE, a TPU VM or Open MPI says what is not said here.
    coordinator: HOST:PORT on which process 0 listens; "": detected.
    processes: how many there are; 0: detected.
    process: the number of this one, from 0; -1: detected.
    timeout: seconds without a sign of life after which one counts as dead.
  """

  detect: bool = False
  coordinator: str = ""
  processes: int = 0
  process: int = -1
  timeout: int = 60


def start(job: Job) -> None:
  """Joins the job's processes, and returns when all of them have.

  A job of several processes goes on in a child of this process, see `guard`.
  Call it once, before JAX is asked for devices.

  Raises:
    strict.FlagError: `job` lacks something that nobody else knows.
  """
  told = (job.coordinator != "", job.processes > 0, job.process >= 0)
  if not job.detect and not any(told):
    return
  if not job.detect and not all(told):
    raise strict.FlagError(
      "coordinator", job.coordinator,
      "--coordinator, --num_processes and --process_id go together; with "
      "--distributed, what is missing is asked of the system")
  if all(told) and job.process >= job.processes:
    raise strict.FlagError(
      "process_id", job.process,
      f"must be less than num_processes = {job.processes}")
  if job.coordinator and not re.fullmatch(r".+:\d+", job.coordinator):
    raise strict.FlagError("coordinator", job.coordinator, "must be HOST:PORT")
  parent_process.split()
  # It would take SIGTERM to itself, and Orbax and a loop that both ask it for
  # the step to stop at, each with numbers of its own, can miss that for ever.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      job.coordinator or None, job.processes or None,
      job.process if job.process >= 0 else None,
      heartbeat_timeout_seconds=job.timeout,
      # All devices of the host, unless the system gives each process its own.
      cluster_detection_method=None if job.detect else "deactivate")
  except ValueError as e:
    raise strict.FlagError(
      "distributed", job.detect, f"{e} Nothing here says so; give "
      "--coordinator, --num_processes and --process_id") from e


def joined() -> int:
  """How many processes have joined; unlike JAX's count, makes no devices."""
  return distributed.global_state.num_processes


def first() -> bool:
  """Whether this is process 0, which writes what is written once."""
  return distributed.global_state.process_id == 0


def leave(code: int) -> NoReturn:
  """Ends this process, for a reason that others may have at the same time.

  Those that have end with the same code. Those that have not would wait for
  this one for ever; they end within `Job.timeout`, with `guard.LOST`.
  """
  if joined() == 1:
    sys.exit(code)
  client: Any = distributed.global_state.client
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # some do not come
    client.wait_at_barrier("leave", timeout_in_ms=1000 * _TOGETHER)
  if first():
    time.sleep(1)  # its end is noticed by the others at once
  _exit(code)


def _exit(code: int) -> NoReturn:
  # Python's way out would wait for the others, by JAX's shutdown.
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def fail(error: Exception) -> NoReturn:
  """Ends this process for an error; it may be that another one has ended."""
  if joined() == 1:
    raise error
  traceback.print_exception(error)
  if not _LOST.search(str(error)):
    _exit(1)
  print(parent_process.MESSAGE, file=sys.stderr)
  _exit(parent_process.LOST)


def gather(value: Any) -> list[Any]:
  """The value, JSON, of every process, in their order.

  All processes have to call it, and in the same order as what else they do on
  devices.
  """
  if joined() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(data.size))
  # A few shapes only, since each is a program to compile.
  room = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
  room[: data.size] = data
  rows = multihost_utils.process_allgather(room)
  return [json.loads(row[:size].tobytes())
          for row, size in zip(rows, sizes.tolist(), strict=True)]


def anywhere(flag: bool) -> bool:
  """Whether it is set in any process; all have to ask, as by `gather`."""
  return any(gather(flag))


def by_first(do: Callable[[], Any]) -> Any:
  """What `do` returns, JSON, in process 0, which alone calls it; for all.

  Raises:
    strict.ConfigError: in all processes, as `do` does.
  """
  error = value = None
  if first():
    try:
      value = do()
    except strict.ConfigError as e:
      if joined() == 1:
        raise
      error = type(e).__name__, e.field, str(e.value), e.fix, str(e)
  value, error = gather([value, error])[0]
  if error is not None:
    kind, *fields, message = error
    failed = _ERRORS[kind](*fields)
    failed.args = (message,)  # the value's text has lost its type
    raise failed
  return value


@dataclasses.dataclass(frozen=True)
class Share:
  """The rows of a batch that are this process's to score.

  Attributes:
    places: of them in the batch, ascending.
    total: rows of the batch.
  """

  places: Sequence[int]
  total: int

  def whole(self, columns: Mapping[str, Sequence[Any]]
            ) -> dict[str, list[Any]]:
    """The columns of all rows, from those of each process's; as `gather`.

    Args:
      columns: of the share, in the order of `places`, JSON. What only another
        process has is None here.
    """
    found: dict[str, list[Any]] = {}
    for places, part in gather([list(self.places), dict(columns)]):
      for name, values in part.items():
        column = found.setdefault(name, [None] * self.total)
        for place, value in zip(places, values, strict=True):
          column[place] = value
    return found


def local(*arrays: jax.Array) -> tuple[Share, list[np.ndarray]]:
  """This process's share of a batch, and its rows of the arrays [b, ...].

  Args:
    arrays: split alike, over axis 0 alone. Of rows that several processes
      hold, the first of these has them.
  """
  spans: dict[tuple[int, int], int] = {}
  total = arrays[0].shape[0]
  index_of = arrays[0].sharding.devices_indices_map(arrays[0].shape)
  device: Any
  for device, index in index_of.items():
    span = index[0].indices(total)[:2]
    spans[span] = min(device.process_index, spans.get(span, 2**31))
  mine = sorted(
    span for span, owner in spans.items() if owner == jax.process_index())
  parts = []
  for array in arrays:
    held = {shard.index[0].indices(total)[:2]: shard.data
            for shard in array.addressable_shards}
    parts.append([held[span] for span in mine])
  share = Share([i for span in mine for i in range(*span)], total)
  return share, [
    np.concatenate(part) if part else np.empty((0, *array.shape[1:]))
    for part, array in zip(jax.device_get(parts), arrays, strict=True)]
