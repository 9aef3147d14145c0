"""The process of a hostile program: loads it, and calls it when asked.

The judge, which holds the tests, sends requests over a socket. The program may
read and change everything in this process, and may write replies in place of
this code. That is safe: nothing here is secret, and only data leaves, which the
judge treats as the program's word.
"""

import builtins
import contextlib
import importlib
import operator
import signal
import sys
import types
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

from dlrl.sandbox import syscalls
from dlrl.sandbox import wire

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "bool": bool,
    "call": lambda function, /, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "getitem": operator.getitem,
    "iter": iter,
    "len": len,
    "next": next,
    "setattr": setattr,
    "setitem": operator.setitem,
}
_MUTABLE = (list, dict, set, bytearray)


def main(judge: int, *, cpu_s: int) -> None:
  """Reports that it is ready, loads the program it is sent, answers requests.

  The process ends when loading or one request takes more than `cpu_s` seconds
  of processor time.
  """
  wire.send(judge, "ready")
  module = types.ModuleType("program")
  sys.modules["program"] = module
  code = wire.receive(judge)
  try:
    with _timer(cpu_s):
      exec(compile(code, "program", "exec"), module.__dict__)
  except BaseException as error:
    wire.send(judge, _raised(error))
    return
  wire.send(judge, {"value": None})
  objects: list[object] = []
  while True:
    request = wire.receive(judge)
    with _timer(cpu_s):
      answer = _answer(request, module, objects)
    try:
      wire.send(judge, answer)
    except wire.TooLarge as error:
      wire.send(judge, _raised(error))


@contextlib.contextmanager
def _timer(seconds: float) -> Iterator[None]:
  """Ends the process when the block takes too much processor time.

  A limit on processor time does not punish an honest program on a busy machine,
  as a short wall-time limit would. The handler is the C library's: one of
  Python's would wait for the end of a long computation in C, such as compiling.
  A program can switch it off, but the wall limits of the trainer and the
  kernel's limits still hold.
  """
  syscalls.exit_on(signal.SIGPROF)
  signal.setitimer(signal.ITIMER_PROF, seconds)
  try:
    yield
  finally:
    signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(request: wire.Json, module: types.ModuleType,
            objects: list[object]) -> wire.Json:
  """Carries out one request of `remote.Channel.ask`.

  Operands that the operation changed are sent back with their positions.
  """
  operation, opaque, sent, named = request

  def refer(value: object) -> int:
    objects.append(value)
    return len(objects) - 1

  def find(reference: wire.Json) -> object:
    if isinstance(reference, int):
      return objects[reference]
    if isinstance(reference, list):  # a function of the standard library
      home, path = reference
      return operator.attrgetter(path)(importlib.import_module(home))
    if not hasattr(module, reference):
      raise NameError(f"name {reference!r} is not defined")
    return getattr(module, reference)

  try:
    operands = [wire.decode(one, find) for one in sent]
    result = _OPERATIONS[operation](
        *operands,
        **{name: wire.decode(one, find) for name, one in named.items()})
    value = ["object", refer(result)] if opaque else wire.encode(result, refer)
    changed: dict[int, wire.Json] = {}
    for at, operand in enumerate(operands):
      if isinstance(operand, _MUTABLE):
        now = wire.encode(operand, refer)
        if now != sent[at]:
          changed[at] = now
    return {"value": value, "changed": changed}
  except BaseException as error:
    return _raised(error)


def _raised(error: BaseException) -> wire.Json:
  """Describes an exception to the judge: its bases and its text."""
  if isinstance(error, Exception):
    kind = next(base.__name__ for base in type(error).__mro__
                if getattr(builtins, base.__name__, None) is base)
  else:  # SystemExit and its like must not end the judge
    kind = "RuntimeError"
  names = [base.__name__ for base in type(error).__mro__]
  try:
    text = str(error)[:wire.MAX_REASON]
  except BaseException:
    text = ""
  return {"raised": kind, "text": text, "names": names}
