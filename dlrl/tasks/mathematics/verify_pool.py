"""Processes that compare LaTeX answers, each comparison within limits.

Children are started by exec, never by fork: a process that runs JAX must not be
forked. A thread waits for each, but no thread computes: what runs out of time
or memory ends with its process, and another is started for the next comparison.
"""

import concurrent.futures
import dataclasses
import json
import pathlib
import queue
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO
from typing import NamedTuple

_WORKER = pathlib.Path(__file__).with_name("verify_worker.py")
_TRIES = 2  # of a comparison whose process was ended by something else


@dataclasses.dataclass(frozen=True)
class WorkerLimits:
  """What one comparison, and the pool, may use."""

  cpu_seconds: float = 1.0
  # A backstop, long: a busy machine must not change a verdict.
  wall_seconds: float = 30.0
  memory: int = 2**30  # bytes of a process's address space
  processes: int = 2


class Pool:
  """Child processes, started when they are needed, until `close`."""

  def __init__(self, limits: WorkerLimits):
    self._threads = concurrent.futures.ThreadPoolExecutor(
      limits.processes, thread_name_prefix="math_pool")
    self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
    self._children = [_Child(limits) for _ in range(limits.processes)]
    for child in self._children:
      self._idle.put(child)

  @property
  def unresolved(self) -> int:
    """How many comparisons ended without a verdict so far."""
    return sum(child.unresolved for child in self._children)

  def verify(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Whether each `(gold, answer)` is equal; what has no verdict is not.

    Raises:
      RuntimeError: a child process does not start.
    """
    return list(self._threads.map(self._compare, pairs))

  def close(self) -> None:
    """Ends the child processes."""
    self._threads.shutdown()
    for child in self._children:
      child.end()

  def _compare(self, pair: tuple[str, str]) -> bool:
    child = self._idle.get()
    try:
      return child.compare(pair)
    finally:
      self._idle.put(child)


class _Process(NamedTuple):
  popen: subprocess.Popen[bytes]
  requests: IO[bytes]
  replies: IO[bytes]


class _Child:
  """One process at a time, replaced when it has ended."""

  def __init__(self, limits: WorkerLimits):
    self._limits = limits
    self._running: _Process | None = None
    self.unresolved = 0

  def compare(self, pair: tuple[str, str]) -> bool:
    """The verdict, or False without one."""
    request = json.dumps(pair).encode() + b"\n"
    for _ in range(_TRIES):
      if self._running is None:
        self._running = self._started()
      reply = self._reply(self._running, request)
      if reply:
        return reply == b"1"
      # Without one, it is ending or has been asked for too long.
      if reply is None or self._running.popen.wait() == -signal.SIGPROF:
        break
      self.end()
    self.end()
    self.unresolved += 1
    return False

  def end(self) -> None:
    """Ends the process, if there is one."""
    if self._running is not None:
      self._running.popen.kill()
      self._running.popen.communicate()
      self._running = None

  def _started(self) -> _Process:
    limits = self._limits
    # -P: beside the script are modules with names of the standard library's.
    command = [sys.executable, "-P", str(_WORKER), str(limits.cpu_seconds),
               str(limits.memory)]
    popen = subprocess.Popen(
      command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      start_new_session=True)  # an interrupt is the parent's affair
    assert popen.stdin and popen.stdout
    process = _Process(popen, popen.stdin, popen.stdout)
    if process.replies.read(1) != b"R":
      raise RuntimeError(
        f"{' '.join(command)} does not start, status {popen.wait()}: is "
        "math-verify installed, and is there memory?")
    return process

  def _reply(self, process: _Process, request: bytes) -> bytes | None:
    """One byte, none if the process has ended; None: it takes too long."""
    try:
      process.requests.write(request)
    except BrokenPipeError:
      return b""
    poll = select.poll()
    poll.register(process.replies, select.POLLIN)
    if not poll.poll(1000 * self._limits.wall_seconds):
      return None
    return process.replies.read(1)
