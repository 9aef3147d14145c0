"""The process of the tests: decides, and never runs a line of the program.

In a test, a function of the program is a `Remote`: calling it asks the
program's process, over a socket, and gives back plain data. Equality, truth and
everything else that a test does is then of this process's own objects. What is
no data stays a `Remote`, which can be called, iterated, taken for true if the
program says so, and given back to it, but compared to nothing. The verdict goes to the
trainer through a descriptor that only this process has.
"""

import builtins
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any
from typing import NoReturn

from dlrl.tasks import sandbox_data as data


class Lost(BaseException):
  """The program's process has ended, or sends what is no answer.

  Not an `Exception`: a test that expects one must not be content with this.
  """


class Program:
  """The socket to the program's process, and what comes over it."""

  def __init__(self, descriptor: int):
    self._descriptor = descriptor
    self.lost = False

  def receive(self) -> data.Json:
    """The next message; raises `Lost` if there is none, or it is none."""
    try:
      return data.receive(self._descriptor)
    except (EOFError, OSError, ValueError) as error:
      self._lose(error)

  def load(self, code: str) -> None:
    """Has the program run; raises `Lost`, or what it raises."""
    data.send(self._descriptor, code)
    self._value(self.receive(), opaque=True)

  def ask(self, operation: str, *args: Any, opaque: bool, **kwargs: Any) -> Any:
    """The result of an operation of the program's process on `args`.

    If `opaque`, it is a `Remote` whatever it is. Else arguments that the
    program changed are changed here, too.
    """
    sent = [data.encode(one, _reference) for one in args]
    named = {name: data.encode(one, _reference) for name, one in kwargs.items()}
    try:
      data.send(self._descriptor, [operation, opaque, sent, named])
    except OSError as error:
      self._lose(error)
    reply = self.receive()
    value = self._value(reply, opaque=opaque)
    if not opaque:
      try:
        for at, now in reply["changed"].items():
          _assign(args[int(at)], self._decode(now, opaque=False))
      except Exception as error:
        self._lose(error)
    return value

  def _value(self, reply: data.Json, *, opaque: bool) -> Any:
    try:
      if "raised" not in reply:
        return self._decode(reply["value"], opaque=opaque)
      raised = _exception(reply)
    except Exception as error:  # whatever a malformed message leads to
      self._lose(error)
    raise raised

  def _decode(self, sent: data.Json, *, opaque: bool) -> Any:
    if opaque and sent is not None and sent[0] != "object":
      raise ValueError("data where none is taken")
    return data.decode(
        sent, lambda reference: Remote(self, int(reference), opaque=opaque))

  def _lose(self, error: Exception) -> NoReturn:
    self.lost = True
    raise Lost("the program's process ended, ran out of processor time, or "
               "sent no answer") from error


class Remote:
  """An object of the program's process; its names do not clash with its own."""

  __slots__ = ("_remote_opaque", "_remote_program", "_remote_reference")

  def __init__(self, program: Program, reference: str | int, *, opaque: bool):
    object.__setattr__(self, "_remote_program", program)
    object.__setattr__(self, "_remote_reference", reference)
    object.__setattr__(self, "_remote_opaque", opaque)

  def _remote_ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
    return self._remote_program.ask(
        operation, self, *args, opaque=self._remote_opaque, **kwargs)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:
    return self._remote_ask("call", *args, **kwargs)

  def __getattr__(self, name: str) -> Any:
    if name.startswith("__"):  # copy, pickle and others look for these
      raise AttributeError(name)
    return self._remote_ask("getattr", name)

  def __setattr__(self, name: str, value: Any) -> None:
    self._remote_ask("setattr", name, value)

  def __getitem__(self, key: Any) -> Any:
    return self._remote_ask("getitem", key)

  def __setitem__(self, key: Any, value: Any) -> None:
    self._remote_ask("setitem", key, value)

  def __len__(self) -> int:
    return self._remote_ask("len")

  def __iter__(self) -> Iterator[Any]:
    return self._remote_ask("iter")

  def __next__(self) -> Any:
    return self._remote_ask("next")

  def __repr__(self) -> str:
    return "<object of the program>"

  __hash__ = object.__hash__

  def __bool__(self) -> bool:
    return self._remote_ask("bool")  # what is opaque gives no bool: an error

  def __eq__(self, other: object) -> bool:
    raise TypeError("an object of the program is no plain data: "
                    "it cannot be compared")

  __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__
  __contains__ = __eq__


class Names(dict[str, Any]):
  """What a test can name: of itself and its setup, Python, then the program.

  A module of the standard library is this process's own: a test that forgot
  an import is not to be judged by what the program calls `math`.
  """

  def __init__(self, known: dict[str, Any], program: Program, entry_point: str):
    super().__init__(known)
    self.program, self.entry_point = program, entry_point

  def __missing__(self, name: str) -> Any:
    if hasattr(builtins, name):
      raise KeyError(name)
    if name in sys.stdlib_module_names:
      return importlib.import_module(name)
    # Of the program, only what is under test gives data that a test looks at.
    return Remote(self.program, name, opaque=bool(self.entry_point))


def main(trainer: int, descriptor: int) -> None:
  """Runs the job that comes from the trainer, and sends verdicts."""
  program = Program(descriptor)
  start = program.receive()
  data.send(trainer, {"start": start})
  if start != "ready":
    return
  job = data.receive(trainer)
  try:
    setup = compile(job["setup"], "setup", "exec")
    tests = [compile(test, "test", "exec") for test in job["tests"]]
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    data.send(trainer, {"fault": f"a test does not compile: {error}"})
    return
  names = Names({"__name__": "tests"}, program, job["entry_point"])
  reason = _reason(lambda: program.load(job["code"])) or _reason(
      lambda: exec(setup, names), "setup: ")
  data.send(trainer, {"reason": reason})
  if reason:
    return
  if job["entry_point"]:
    # Now, as the setup may define one of that name.
    names[job["entry_point"]] = Remote(program, job["entry_point"],
                                       opaque=False)
  for test in tests:
    reason = _run(test, names)
    data.send(trainer, {"reason": reason, "lost": program.lost})
    if program.lost:
      return


def _run(test: types.CodeType, names: Names) -> str:
  scope = Names(names, names.program, names.entry_point)
  reason = _reason(lambda: exec(test, scope))
  # However a test takes it: nothing can be said of a program that is gone.
  return reason or "the program's process ended" * names.program.lost


def _reason(action: Any, where: str = "") -> str:
  """Empty if the action returns; else what it raises."""
  try:
    action()
  except BaseException as error:
    try:
      text = f"{where}{type(error).__name__}: {error}"
    except BaseException:
      text = f"{where}{type(error).__name__}"
    return "".join(one if one.isprintable() else " " for one in text[:200])
  return ""


def _exception(reply: data.Json) -> Exception:
  """The exception that the program raised, as one of the built-in classes."""
  kind = getattr(builtins, reply["raised"])
  text = str(reply["text"])
  if not issubclass(kind, Exception):
    raise TypeError(f"{kind} is no exception")
  try:
    return kind(text)
  except TypeError:  # the few that need more
    return ValueError(text)


def _reference(value: object) -> str | int:
  if isinstance(value, Remote):
    return value._remote_reference
  raise TypeError(f"a test gives the program a {type(value).__name__}, "
                  "which cannot be sent")


def _assign(old: Any, new: Any) -> None:
  """Makes a mutable argument what the program made of it."""
  if isinstance(old, list | bytearray):
    old[:] = new
  elif isinstance(old, dict | set):
    old.clear()
    old.update(new)
  else:
    raise TypeError(f"{type(old).__name__} does not change")
