"""Processes that compare LaTeX answers, each comparison within limits.

Workers are started by exec, because a process that runs JAX must not be forked.
The threads of the pool only wait for them. A comparison that runs out of time
or memory ends with its worker, and the next comparison starts another.
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

from dlrl.tasks.mathematics import questions

# Packages without their `__init__`, which would import all tasks.
_BOOT = """
import json, sys, types
sys.path[:] = json.loads(sys.argv[1])
for name, path in json.loads(sys.argv[2]).items():
  sys.modules[name] = types.ModuleType(name)
  sys.modules[name].__path__ = [path]
from dlrl.tasks.mathematics import verify_worker
verify_worker.main(float(sys.argv[3]), int(sys.argv[4]))
"""
_HERE = pathlib.Path(__file__).parent
_PACKAGES = {
  "dlrl": str(_HERE.parents[1]),
  "dlrl.sandbox": str(_HERE.parents[1] / "sandbox"),
  "dlrl.tasks": str(_HERE.parent), "dlrl.tasks.mathematics": str(_HERE)}
_TRIES = 2  # of a comparison whose worker was ended by something else


@dataclasses.dataclass(frozen=True)
class WorkerLimits:
  """Resources that the pool may use.

  Attributes:
    cpu_seconds: processor time of one comparison.
    wall_seconds: wall time of one comparison. Long, as it is only a backstop: a
      busy machine must not change a verdict.
    memory: bytes of address space of one worker.
    processes: workers at a time.
  """

  cpu_seconds: float = 1.0
  wall_seconds: float = 30.0
  memory: int = 2**30
  processes: int = 2


class VerifyPool:
  """Workers, started when they are needed and kept until `close`."""

  def __init__(self, limits: WorkerLimits) -> None:
    self._threads = concurrent.futures.ThreadPoolExecutor(
      limits.processes, thread_name_prefix="verify_pool")
    self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    self._workers = [_Worker(limits) for _ in range(limits.processes)]
    for worker in self._workers:
      self._idle.put(worker)

  @property
  def unresolved(self) -> int:
    """How many comparisons ended without a verdict so far."""
    return sum(worker.unresolved for worker in self._workers)

  def verify(self, asked: Sequence[questions.Question]) -> list[bool]:
    """Answers each question; False without a verdict.

    Raises:
      RuntimeError: a worker does not start.
    """
    return list(self._threads.map(self._compare, asked))

  def close(self) -> None:
    """Ends the workers."""
    self._threads.shutdown()
    for worker in self._workers:
      worker.end()

  def _compare(self, question: questions.Question) -> bool:
    worker = self._idle.get()
    try:
      return worker.compare(question)
    finally:
      self._idle.put(worker)


class _Process(NamedTuple):
  popen: subprocess.Popen[bytes]
  requests: IO[bytes]
  replies: IO[bytes]


class _Worker:
  """One process at a time; a new one replaces one that ended."""

  def __init__(self, limits: WorkerLimits) -> None:
    self._limits = limits
    self._running: _Process | None = None
    self.unresolved = 0

  def compare(self, question: questions.Question) -> bool:
    """Returns the verdict, or False without one."""
    request = json.dumps(question).encode() + b"\n"
    for _ in range(_TRIES):
      if self._running is None:
        self._running = self._started()
      reply = self._reply(self._running, request)
      if reply:
        return reply == b"1"
      # No reply: the worker took too long (None), or it is ending. The kernel
      # sends SIGPROF when the processor time is used up; any other end is not
      # this comparison's fault, so try again.
      if reply is None or self._running.popen.wait() == -signal.SIGPROF:
        break
      self.end()
    self.end()
    self.unresolved += 1
    return False

  def end(self) -> None:
    """Ends the process if one runs."""
    if self._running is not None:
      self._running.popen.kill()
      self._running.popen.communicate()
      self._running = None

  def _started(self) -> _Process:
    limits = self._limits
    # The environment may hold secrets. A new session, so that Ctrl-C at the
    # terminal reaches only the parent.
    popen = subprocess.Popen(
      [sys.executable, "-I", "-c", _BOOT, json.dumps(sys.path),
       json.dumps(_PACKAGES), str(limits.cpu_seconds), str(limits.memory)],
      bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={},
      cwd="/", start_new_session=True)
    assert popen.stdin and popen.stdout
    process = _Process(popen, popen.stdin, popen.stdout)
    if process.replies.read(1) != b"R":
      raise RuntimeError(
        f"math-verify's process does not start (exit status {popen.wait()}); "
        f"check that math-verify is installed and that {limits.memory} bytes "
        "of memory are enough")
    return process

  def _reply(self, process: _Process, request: bytes) -> bytes | None:
    """Returns a byte; b"" if the process has ended, None if it takes too long.
    """
    try:
      process.requests.write(request)
    except BrokenPipeError:
      return b""
    poll = select.poll()
    poll.register(process.replies, select.POLLIN)
    if not poll.poll(1000 * self._limits.wall_seconds):
      return None
    return process.replies.read(1)
