"""Joins the processes of a job and exchanges values between them.

Every process runs the same program with the same config. Arrays are sharded
over the devices of all processes. Host computations on rows, such as rewards,
are done by the process whose devices hold the rows, and then gathered.
"""

import contextlib
import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NoReturn

import jax
import numpy as np
from jax._src import distributed  # unlike jax.process_count, needs no devices
from jax.experimental import multihost_utils

from dlrl import strict
from dlrl.runtime import parent_process
from dlrl.runtime import terminal

# By name, since errors travel between processes as JSON.
_ERRORS = {kind.__name__: kind for kind in (
  strict.ConfigError, strict.FlagError, strict.ArgumentError,
  strict.VariableError)}
# Matches errors whose cause is that another process has ended.
_LOST = re.compile(r"\b(gloo|nccl|heartbeats?|coordination service)\b", re.I)
_TOGETHER = 5  # seconds to wait for processes that end for the same reason


@dataclasses.dataclass(frozen=True)
class Job:
  """How this process finds the others.

  Attributes:
    detect: whether SLURM, GKE, the TPU VM or Open MPI provides what is left out
      below.
    coordinator: HOST:PORT on which process 0 listens; "": detected.
    processes: number of processes in the job; 0: detected.
    process: number of this process, from 0; -1: detected.
    timeout: seconds without a heartbeat after which a process counts as dead.
  """

  detect: bool = False
  coordinator: str = ""
  processes: int = 0
  process: int = -1
  timeout: int = 60


def start(job: Job) -> None:
  """Joins the job's processes; returns when all have joined.

  With several processes, the caller continues in a child process, see
  `parent_process`. Call this once, before JAX creates its devices.

  Raises:
    strict.FlagError: a flag is missing or invalid.
  """
  told = (job.coordinator != "", job.processes > 0, job.process >= 0)
  if not job.detect and not any(told):
    return
  if not job.detect and not all(told):
    raise strict.FlagError(
      "coordinator", job.coordinator,
      "pass --coordinator, --num_processes and --process_id together, or "
      "--distributed where the system knows what is missing")
  if all(told) and job.process >= job.processes:
    raise strict.FlagError(
      "process_id", job.process,
      f"must be less than --num_processes={job.processes}")
  if job.coordinator and not re.fullmatch(r".+:\d+", job.coordinator):
    raise strict.FlagError("coordinator", job.coordinator, "must be HOST:PORT")
  parent_process.split()
  # JAX's service would handle SIGTERM itself. Orbax and our loop would both ask
  # it for the step to stop at, with different step numbers, and can miss it.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      job.coordinator or None, job.processes or None,
      job.process if job.process >= 0 else None,
      heartbeat_timeout_seconds=job.timeout,
      # Without a cluster, each process uses all devices of its host.
      cluster_detection_method=None if job.detect else "deactivate")
  except ValueError as e:
    raise strict.FlagError(
      "distributed", job.detect, f"{e} The system does not provide it; pass "
      "--coordinator, --num_processes and --process_id") from e


def joined() -> int:
  """Number of joined processes; unlike JAX's count, creates no devices."""
  return distributed.global_state.num_processes


def first() -> bool:
  """Whether this is process 0, which writes the files of a run."""
  return distributed.global_state.process_id == 0


def leave(code: int) -> NoReturn:
  """Ends this process with `code`, for a reason that others may share.

  Waits briefly so that processes exiting for the same reason report the same
  code. The others end within `Job.timeout`, with `parent_process.LOST`.
  """
  if joined() == 1:
    sys.exit(code)
  client: Any = distributed.global_state.client
  with contextlib.suppress(jax.errors.JaxRuntimeError):  # some do not arrive
    client.wait_at_barrier("leave", timeout_in_ms=1000 * _TOGETHER)
  if first():
    time.sleep(1)  # the end of process 0 aborts the others at once
  _exit(code)


def _exit(code: int) -> NoReturn:
  # A normal exit would wait for the others in JAX's shutdown.
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)


def fail(error: Exception) -> NoReturn:
  """Ends this process after `error`, which the end of another may cause."""
  if joined() == 1:
    raise error
  terminal.show_traceback(type(error), error, error.__traceback__)
  if not _LOST.search(str(error)):
    _exit(1)
  terminal.show(parent_process.MESSAGE, error=True)
  _exit(parent_process.LOST)


def gather(value: Any) -> list[Any]:
  """The JSON values of all processes, ordered by process number.

  All processes must call it, in the same order as their other collectives.
  """
  if joined() == 1:
    return [value]
  data = np.frombuffer(json.dumps(value).encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(data.size))
  # Rounded up to powers of two: each shape is a program to compile.
  room = np.zeros(1 << int(sizes.max() - 1).bit_length(), np.uint8)
  room[: data.size] = data
  rows = multihost_utils.process_allgather(room)
  return [json.loads(row[:size].tobytes())
          for row, size in zip(rows, sizes.tolist(), strict=True)]


def anywhere(flag: bool) -> bool:
  """Whether `flag` is set in any process; all must call it, see `gather`."""
  return any(gather(flag))


def by_first(do: Callable[[], Any]) -> Any:
  """Calls `do` in process 0 and returns its JSON result in all processes.

  Raises:
    strict.ConfigError: `do` raised it; raised in all processes.
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
  """The rows of a batch that this process scores.

  Attributes:
    places: their positions in the batch, ascending.
    total: number of rows in the batch.
  """

  places: Sequence[int]
  total: int

  def whole(self, columns: Mapping[str, Sequence[Any]]
            ) -> dict[str, list[Any]]:
    """The columns of all rows, gathered from all processes.

    Args:
      columns: JSON values of this process's rows, in the order of `places`.

    Returns:
      Columns with `total` values; None where no process has one.
    """
    found: dict[str, list[Any]] = {}
    for places, part in gather([list(self.places), dict(columns)]):
      for name, values in part.items():
        column = found.setdefault(name, [None] * self.total)
        for place, value in zip(places, values, strict=True):
          column[place] = value
    return found


def local(*arrays: jax.Array) -> tuple[Share, list[np.ndarray]]:
  """This process's share of a batch, and its rows of the arrays.

  Args:
    *arrays: arrays [b, ...] with equal shardings, sharded only along axis 0.
      Rows that several processes hold belong to the first of them.
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
