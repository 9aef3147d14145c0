"""The trainer's end: the server process and the pairs that it forks."""

import contextlib
import enum
import json
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple
from typing import TypedDict

from dlrl.sandbox import wire

MECHANISMS = ("namespaces", "filter")

_SERVER_S = 60.0
_PAIR_S = 30.0  # two forks take milliseconds, but the machine may be busy
_END_S = 10.0
# The packages get a path but not their own __init__, which would import what
# training needs. Isolated, without site-packages, Python starts in 20 ms.
_BOOT = """
import sys, types
for name, path in (("dlrl", sys.argv[1]), ("dlrl.sandbox", sys.argv[2])):
  sys.modules[name] = types.ModuleType(name)
  sys.modules[name].__path__ = [path]
from dlrl.sandbox import server
server.main(int(sys.argv[3]), sys.argv[4])
"""


class InfrastructureError(RuntimeError):
  """The sandbox failed, not the program; another attempt may succeed."""


class FaultyTestError(InfrastructureError):
  """A test is not valid Python; every other attempt would fail as well."""


class Greeting(TypedDict):
  """The server's report at its start.

  Attributes:
    mechanisms: those in force, for people.
    missing: maps each of `MECHANISMS` that is not in force to the reason.
  """

  mechanisms: list[str]
  missing: dict[str, str]


class Outcome(enum.Enum):
  """What a step showed: only the first two are about the program."""

  PASSED = enum.auto()
  FAILED = enum.auto()
  LATE = enum.auto()  # no verdict within the wall time
  UNKNOWN = enum.auto()  # the test decides nothing, or the sandbox failed


class Verdict(NamedTuple):
  """A step's outcome, why it did not pass, and whether its pair is lost."""

  outcome: Outcome
  reason: str
  lost: bool


class ServerProcess:
  """A running server, started again if it dies.

  Attributes:
    greeting: what the server reported at its start.
    starts: how often it was started.
  """

  def __init__(self, limits: dict[str, int], without: Sequence[str]) -> None:
    self._options = json.dumps({"limits": limits, "without": list(without)})
    self._lock = threading.Lock()
    self.starts = 0
    self._start()

  def _start(self) -> None:
    self._control, theirs = socket.socketpair()
    package = pathlib.Path(__file__).parent
    with theirs:
      # Started by exec: the trainer may hold devices and threads, which a fork
      # would inherit. In a session of its own, so that Ctrl-C at the terminal
      # reaches only the trainer.
      self._process = subprocess.Popen(
          [sys.executable, "-I", "-S", "-E", "-c", _BOOT, str(package.parent),
           str(package), str(theirs.fileno()), self._options],
          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={}, cwd="/",
          pass_fds=[theirs.fileno()], start_new_session=True)
    try:
      self.greeting: Greeting = wire.receive(self._control.fileno(), _SERVER_S)
    except (EOFError, OSError) as error:
      self.close()
      raise InfrastructureError("the code sandbox did not start") from error
    self.starts += 1

  @property
  def pid(self) -> int:
    """Process id, a new one after every start."""
    return self._process.pid

  @contextlib.contextmanager
  def start_pair(self) -> Iterator["ProcessPair"]:
    """Starts a pair of processes; on exit both are killed and reaped.

    Raises:
      InfrastructureError: the pair cannot be started, or the judge ended.
    """
    mine, theirs = socket.socketpair()
    with mine:
      try:
        with theirs:
          self._request_pair(theirs)
        yield ProcessPair(mine.fileno())
      except (EOFError, OSError, ValueError) as error:
        raise InfrastructureError(f"lost the judge: {error!r}") from error
      finally:
        # The server kills both processes when this end is shut down, and closes
        # its own end when they are reaped.
        with contextlib.suppress(OSError):
          mine.shutdown(socket.SHUT_WR)
          mine.settimeout(_END_S)
          while mine.recv(1 << 16):
            pass

  def _request_pair(self, job: socket.socket) -> None:
    with self._lock:
      try:
        socket.send_fds(self._control, [b"j"], [job.fileno()])
      except OSError:
        self.close()
        self._start()
        socket.send_fds(self._control, [b"j"], [job.fileno()])

  def close(self) -> None:
    """Ends the server and every process that it started."""
    self._control.close()
    try:
      self._process.wait(5)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


class ProcessPair:
  """A candidate and its judge, ready for a program and its tests."""

  def __init__(self, judge: int) -> None:
    self._judge = judge
    start = wire.receive(judge, _PAIR_S).get("start")
    if start != "ready":
      raise InfrastructureError(f"cannot start a process: {start}")

  def send(self, job: wire.Json) -> None:
    """Has the candidate load the program, and the judge run the tests."""
    wire.send(self._judge, job)

  def verdict(self, step: str, seconds: float, end: float) -> Verdict:
    """Waits for the next verdict; without one in time the pair is lost.

    Args:
      step: "loading" or "test", for the reason.
      seconds: the longest that the step may take.
      end: when all steps must be done, by the monotonic clock.

    Raises:
      FaultyTestError: a test does not compile.
      EOFError, OSError, ValueError: the judge gave no verdict.
    """
    left = min(seconds, end - time.monotonic())
    try:
      message = wire.receive(self._judge, max(left, 0.0))
    except TimeoutError:
      whose = "" if left == seconds else " of all tests"
      return Verdict(
          Outcome.LATE, f"{step}: time limit{whose}", lost=True)
    # Tests may be written by anyone and could have taken over the judge.
    if not isinstance(message, dict):
      raise ValueError("not a verdict")
    if "fault" in message:
      raise FaultyTestError(str(message["fault"])[:wire.MAX_REASON])
    reason = str(message.get("reason", "no verdict"))[:wire.MAX_REASON]
    outcome = (Outcome.PASSED if not reason else
               Outcome.FAILED if message.get("decided") else Outcome.UNKNOWN)
    return Verdict(outcome, reason, lost=bool(message.get("lost")))
