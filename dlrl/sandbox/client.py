"""The trainer's end: the server, started again if it dies, and its pairs."""

import contextlib
import json
import pathlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

from dlrl.sandbox import wire

MECHANISMS = ("namespaces", "filter")

_SERVER_S = 60.0
_PAIR_S = 30.0  # two forks, on a machine that has much else to do
_END_S = 10.0
_LONGEST_REASON = 200
# The packages are given paths only: their own __init__ would import what
# trains. Isolated, without site-packages, Python starts in 20 ms.
_BOOT = """
import sys, types
for name, path in (("dlrl", sys.argv[1]), ("dlrl.sandbox", sys.argv[2])):
  sys.modules[name] = types.ModuleType(name)
  sys.modules[name].__path__ = [path]
from dlrl.sandbox import server
server.main(int(sys.argv[3]), sys.argv[4])
"""


class InfrastructureError(RuntimeError):
  """A job was not done, for a reason that is not the program's."""


class FaultyTestError(InfrastructureError):
  """Nor will it be if tried again: a test is no Python."""


class Server:
  """A running server; `greeting` is what it says of itself at start."""

  def __init__(self, limits: dict[str, int], without: Sequence[str]):
    self._options = json.dumps({"limits": limits, "without": list(without)})
    self._lock = threading.Lock()
    self.starts = 0
    self._start()

  def _start(self) -> None:
    self._control, theirs = socket.socketpair()
    package = pathlib.Path(__file__).parent
    with theirs:
      # Not a fork of this process, which may hold devices and threads. In a
      # session of its own: an interrupt at the terminal is the trainer's.
      self._process = subprocess.Popen(
          [sys.executable, "-I", "-S", "-E", "-c", _BOOT, str(package.parent),
           str(package), str(theirs.fileno()), self._options],
          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={}, cwd="/",
          pass_fds=[theirs.fileno()], start_new_session=True)
    try:
      self.greeting: dict[str, Any] = wire.receive(
          self._control.fileno(), _SERVER_S)
    except (EOFError, OSError) as error:
      self.close()
      raise InfrastructureError("the code sandbox did not start") from error
    self.starts += 1

  @property
  def process(self) -> int:
    """The id of the process that was started."""
    return self._process.pid

  @contextlib.contextmanager
  def pair(self) -> Iterator["Pair"]:
    """A new pair of processes, gone without trace when this is left.

    Raises:
      InfrastructureError: there is none, or it ended by itself.
    """
    mine, theirs = socket.socketpair()
    with mine:
      try:
        with theirs:
          self._send(theirs)
        pair = Pair(mine.fileno())
        yield pair
      except (EOFError, OSError, ValueError) as error:
        raise InfrastructureError(f"lost the judge: {error!r}") from error
      finally:
        # The server kills both, and closes its end when they are reaped.
        with contextlib.suppress(OSError):
          mine.shutdown(socket.SHUT_WR)
          mine.settimeout(_END_S)
          while mine.recv(1 << 16):
            pass

  def _send(self, job: socket.socket) -> None:
    with self._lock:
      try:
        socket.send_fds(self._control, [b"j"], [job.fileno()])
      except OSError:
        self.close()
        self._start()
        socket.send_fds(self._control, [b"j"], [job.fileno()])

  def close(self) -> None:
    """Ends the server and with it all that it started."""
    self._control.close()
    try:
      self._process.wait(5)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


class Pair:
  """A process for a program and one for its tests, before they get them."""

  def __init__(self, judge: int):
    self._judge = judge
    start = wire.receive(judge, _PAIR_S).get("start")
    if start != "ready":
      raise InfrastructureError(f"cannot make a process: {start}")

  def send(self, job: wire.Json) -> None:
    """Has the program loaded and the tests run."""
    wire.send(self._judge, job)

  def verdict(self, doing: str, seconds: float, end: float) -> dict[str, Any]:
    """Why the next step failed, `reason`, and whether the pair is `lost`.

    It may take `seconds`, and not longer than until `end`, of the monotonic
    clock; else it is lost.

    Raises:
      InfrastructureError, EOFError, OSError: the judge did not say.
    """
    left = min(seconds, end - time.monotonic())
    try:
      said = wire.receive(self._judge, max(left, 0.0))
    except TimeoutError:
      whose = "" if left == seconds else " of all tests"
      return {"reason": f"{doing}: time limit{whose}", "lost": True}
    # Tests, which may be anyone's, could have got hold of the judge.
    if not isinstance(said, dict):
      raise ValueError("no verdict")
    if "fault" in said:
      raise FaultyTestError(str(said["fault"])[:_LONGEST_REASON])
    return {"reason": str(said.get("reason", "no verdict"))[:_LONGEST_REASON],
            "lost": bool(said.get("lost"))}
