"""The process of the tests: decides, and never runs a line of the program.

In a test, a function of the program is a `Remote`: calling it asks the
program's process, over a socket, and gives back plain data. Equality and
everything else that a test does is then of this process's own objects. The
verdict goes to the trainer through a descriptor that only this process has.
"""

import builtins
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

from dlrl.sandbox import remote
from dlrl.sandbox import wire

_LONGEST_REASON = 200


class Names(dict[str, Any]):
  """What a test can name: of itself and its setup, Python, then the program.

  A module of the standard library is this process's own: a test that forgot
  an import is not to be judged by what the program calls `math`.
  """

  def __init__(self, known: dict[str, Any], channel: remote.Channel,
               entry_point: str):
    super().__init__(known)
    self.channel, self.entry_point = channel, entry_point

  def __missing__(self, name: str) -> Any:
    if hasattr(builtins, name):
      raise KeyError(name)
    if name in sys.stdlib_module_names:
      return importlib.import_module(name)
    # Of the program, only what is under test gives data that a test looks at.
    return remote.Remote(self.channel, name, opaque=bool(self.entry_point))

  def scope(self) -> "Names":
    """The names of one test, whose assignments no other one sees."""
    return Names(self, self.channel, self.entry_point)


def main(trainer: int, program: int) -> None:
  """Runs the job that comes from the trainer, and sends verdicts."""
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
  names = Names({"__name__": "tests"}, channel, job["entry_point"])
  reason = (_failure(lambda: channel.load(job["code"]))
            or _failure(lambda: exec(setup, names), "setup: "))
  wire.send(trainer, {"reason": reason})
  if reason:
    return
  if job["entry_point"]:
    # Now, as the setup may define one of that name.
    names[job["entry_point"]] = remote.Remote(
        channel, job["entry_point"], opaque=False)
  for test in tests:
    reason = _run(test, names)
    wire.send(trainer, {"reason": reason, "lost": channel.lost})
    if channel.lost:
      return


def _run(test: types.CodeType, names: Names) -> str:
  scope = names.scope()
  reason = _failure(lambda: exec(test, scope))
  # However a test takes it: nothing can be said of a program that is gone.
  return reason or "the program's process ended" * names.channel.lost


def _failure(action: Callable[[], Any], where: str = "") -> str:
  """What the action raises, in short; empty if it returns."""
  try:
    action()
  except BaseException as error:
    try:
      text = f"{where}{type(error).__name__}: {error}"
    except BaseException:
      text = f"{where}{type(error).__name__}"
    return "".join(letter if letter.isprintable() else " "
                   for letter in text[:_LONGEST_REASON])
  return ""
