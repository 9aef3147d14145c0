"""The process of the tests: it decides, and never runs a line of the program.

In a test, a function of the program is a `Remote`. Calling it asks the
program's process, over a socket, and gives back plain data, so that `==` and
everything else that a test does concern objects of this process. Verdicts go to
the trainer through a descriptor that only this process has.
"""

import builtins
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

from dlrl.sandbox import remote
from dlrl.sandbox import wire


class TestNamespace(dict[str, Any]):
  """The globals of tests: their own names, then Python's, then the program's.

  Python calls `__missing__` for names that are not in the dict, also in the
  test's functions. A module of the standard library is this process's own: a
  test that forgot an import must not be judged by what the program calls
  `math`.
  """

  def __init__(self, known: dict[str, Any], channel: remote.Channel,
               entry_point: str) -> None:
    super().__init__(known)
    self.channel, self.entry_point = channel, entry_point

  def __missing__(self, name: str) -> Any:
    if hasattr(builtins, name):
      raise KeyError(name)  # Python looks in `builtins` next
    if name in sys.stdlib_module_names:
      return importlib.import_module(name)
    # With an entry point, only its calls give data that a test can look at.
    return remote.Remote(self.channel, name, opaque=bool(self.entry_point))

  def copy(self) -> "TestNamespace":
    """Returns the globals of one test; other tests do not see what it sets."""
    return TestNamespace(self, self.channel, self.entry_point)


def main(trainer: int, program: int) -> None:
  """Judges one job.

  Args:
    trainer: descriptor from which the job comes and to which verdicts go.
    program: descriptor of the socket to the program's process.
  """
  channel = remote.Channel(program)
  start = channel.receive()
  wire.send(trainer, {"start": start})
  if start != "ready":
    return
  job = wire.receive(trainer)
  try:
    setup = compile(job["setup"], "setup", "exec")
    tests = [compile(test, "test", "exec") for test in job["tests"]]
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    wire.send(trainer, {"fault": f"a test does not compile: {error}"})
    return
  names = TestNamespace({"__name__": "tests"}, channel, job["entry_point"])
  failed = _failure(lambda: channel.load(job["code"]))
  # Also if the program failed: it may have failed for what the setup lacks.
  faulty = _failure(lambda: exec(setup, names), "setup: ")
  wire.send(trainer, {"reason": failed or faulty,
                      "decided": not faulty or _decided(channel)})
  if failed or faulty:
    return
  channel.names = names
  if job["entry_point"]:
    # After the setup, which may define a function of the same name.
    names[job["entry_point"]] = remote.Remote(
        channel, job["entry_point"], opaque=False)
  asked = channel.asked  # by the setup, whose values tests may look at
  for test in tests:
    channel.asked, channel.undecidable = asked, ""
    reason = _run(test, names)
    wire.send(trainer, {"reason": reason, "lost": channel.lost,
                        "decided": _decided(channel)})
    if channel.lost:
      return


def _decided(channel: remote.Channel) -> bool:
  """Whether a failure is the program's, not that of the tests themselves."""
  return channel.asked > 0 and not channel.undecidable


def _run(test: types.CodeType, names: TestNamespace) -> str:
  scope = names.copy()
  reason = _failure(lambda: exec(test, scope))
  # A test may catch everything, but these always fail it.
  return (names.channel.undecidable or reason
          or "the program's process ended" * names.channel.lost)


def _failure(action: Callable[[], Any], where: str = "") -> str:
  """Returns what `action` raises, as a short text; empty if it returns."""
  try:
    action()
  except BaseException as error:
    try:
      text = f"{where}{type(error).__name__}: {error}"
    except BaseException:
      text = f"{where}{type(error).__name__}"
    return "".join(letter if letter.isprintable() else " "
                   for letter in text[:wire.MAX_REASON])
  return ""
