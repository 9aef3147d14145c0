"""Proxies in the judge's process for objects of the program's process."""

import builtins
from collections.abc import Iterator
from typing import Any
from typing import NoReturn

from dlrl.sandbox import wire


class ProgramLost(BaseException):
  """The program's process has ended, or sent something that is not a reply.

  Not an `Exception`: a test that expects an exception must not accept this.
  """


class Channel:
  """The socket to the program's process; whatever it delivers is hostile.

  Attributes:
    lost: whether the program's process has ended or sent an invalid reply.
  """

  def __init__(self, descriptor: int) -> None:
    self._descriptor = descriptor
    self.lost = False

  def receive(self) -> wire.Json:
    """Returns the next message; raises `ProgramLost` without a valid one."""
    try:
      return wire.receive(self._descriptor)
    except (EOFError, OSError, ValueError) as error:
      self._lose(error)

  def load(self, code: str) -> None:
    """Has the program run; raises `ProgramLost`, or what the program raises."""
    wire.send(self._descriptor, code)
    self._value(self.receive(), opaque=False)

  def ask(self, operation: str, *args: Any, opaque: bool, **kwargs: Any) -> Any:
    """Returns the result of an operation in the program's process.

    Args:
      operation: a key of `candidate._OPERATIONS`.
      *args: its operands, data or `Remote`. If the program changes mutable
        ones, they are changed here, unless `opaque`.
      opaque: whether any result is a `Remote`, also if it is data.
      **kwargs: its named operands.

    Raises:
      ProgramLost: the program's process has ended.
      Exception: what the operation raised, as the nearest built-in class.
    """
    sent = [wire.encode(one, _reference) for one in args]
    named = {name: wire.encode(one, _reference) for name, one in kwargs.items()}
    try:
      wire.send(self._descriptor, [operation, opaque, sent, named])
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

  def _value(self, reply: wire.Json, *, opaque: bool) -> Any:
    try:
      if "raised" not in reply:
        return self._decode(reply["value"], opaque=opaque)
      raised = _exception(reply)
    except Exception as error:  # whatever a malformed message leads to
      self._lose(error)
    raise raised

  def _decode(self, sent: wire.Json, *, opaque: bool) -> Any:
    if opaque and sent[0] != "object":
      raise ValueError("data where only a reference is allowed")
    return wire.decode(
        sent, lambda reference: Remote(self, int(reference), opaque=opaque))

  def _lose(self, error: Exception) -> NoReturn:
    self.lost = True
    raise ProgramLost("the program's process ended, ran out of processor time, "
                      "or sent an invalid reply") from error


class Remote:
  """An object of the program's process.

  A test can call, index and iterate it, get and set its attributes, and take it
  for true or false as the program says. Results are data or `Remote`; if the
  object is opaque, they are always `Remote`. Comparisons raise: the program
  would decide them.
  """

  __slots__ = ("_remote_channel", "_remote_opaque", "_remote_reference")

  def __init__(self, channel: Channel, reference: str | int, *,
               opaque: bool) -> None:
    # Not by `self.x = ...`, which would set attributes of the program's object.
    object.__setattr__(self, "_remote_channel", channel)
    object.__setattr__(self, "_remote_reference", reference)
    object.__setattr__(self, "_remote_opaque", opaque)

  def _remote_ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
    return self._remote_channel.ask(
        operation, self, *args, opaque=self._remote_opaque, **kwargs)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
    return self._remote_ask("call", *args, **kwargs)

  def __getattr__(self, name: str) -> Any:
    if name.startswith("__"):  # copy, pickle and others probe for these
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

  def __bool__(self) -> bool:
    return self._remote_ask("bool")

  def __repr__(self) -> str:
    return "<object of the program>"

  __hash__ = object.__hash__

  def __eq__(self, other: object) -> bool:
    del other
    raise TypeError("an object of the program is not plain data and cannot be "
                    "compared")

  __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__


def _exception(reply: wire.Json) -> Exception:
  """Rebuilds the exception that the program raised as a built-in class."""
  kind = getattr(builtins, reply["raised"])
  text = str(reply["text"])
  if not issubclass(kind, Exception):
    raise TypeError(f"{kind} is not an exception class")
  try:
    return kind(text)
  except TypeError:  # a few, such as UnicodeDecodeError, need more arguments
    return ValueError(text)


def _reference(value: object) -> str | int:
  if isinstance(value, Remote):
    return value._remote_reference
  raise TypeError(f"a test passes the program a {type(value).__name__}, "
                  "which cannot be sent")


def _assign(old: Any, new: Any) -> None:
  """Repeats on a mutable argument what the program did to its copy."""
  if isinstance(old, list | bytearray):
    old[:] = new
  elif isinstance(old, dict | set):
    old.clear()
    old.update(new)
  else:
    raise TypeError(f"{type(old).__name__} is not mutable")
