"""Objects of the program's process, as the tests' process sees them."""

import builtins
from collections.abc import Iterator
from typing import Any
from typing import NoReturn

from dlrl.sandbox import wire


class Lost(BaseException):
  """The program's process has ended, or sends what is no answer.

  Not an `Exception`: a test that expects one must not be content with this.
  """


class Channel:
  """The socket to the program's process; what comes over it is hostile."""

  def __init__(self, descriptor: int):
    self._descriptor = descriptor
    self.lost = False

  def receive(self) -> wire.Json:
    """The next message; raises `Lost` if there is none, or it is none."""
    try:
      return wire.receive(self._descriptor)
    except (EOFError, OSError, ValueError) as error:
      self._lose(error)

  def load(self, code: str) -> None:
    """Has the program run; raises `Lost`, or what it raises."""
    wire.send(self._descriptor, code)
    self._value(self.receive(), opaque=False)

  def ask(self, operation: str, *args: Any, opaque: bool, **kwargs: Any) -> Any:
    """The result of an operation of the program's process on `args`.

    If `opaque`, it is a `Remote` whatever it is. Else arguments that the
    program changed are changed here, too.
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
      raise ValueError("data where none is taken")
    return wire.decode(
        sent, lambda reference: Remote(self, int(reference), opaque=opaque))

  def _lose(self, error: Exception) -> NoReturn:
    self.lost = True
    raise Lost("the program's process ended, ran out of processor time, or "
               "sent no answer") from error


class Remote:
  """An object of the program's process.

  It can be called, indexed and iterated, its attributes got and set, and taken
  for true if the program says so; what comes back is data or `Remote`. It can
  be compared to nothing. If it is opaque, nothing that comes back is data.
  """

  __slots__ = ("_remote_channel", "_remote_opaque", "_remote_reference")

  def __init__(self, channel: Channel, reference: str | int, *, opaque: bool):
    # Past the method below, which sets attributes of the program's object.
    object.__setattr__(self, "_remote_channel", channel)
    object.__setattr__(self, "_remote_reference", reference)
    object.__setattr__(self, "_remote_opaque", opaque)

  def _remote_ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
    return self._remote_channel.ask(
        operation, self, *args, opaque=self._remote_opaque, **kwargs)

  def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
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

  def __bool__(self) -> bool:
    return self._remote_ask("bool")

  def __repr__(self) -> str:
    return "<object of the program>"

  __hash__ = object.__hash__

  def __eq__(self, other: object) -> bool:
    raise TypeError("an object of the program is no plain data: "
                    "it cannot be compared")

  __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__


def _exception(reply: wire.Json) -> Exception:
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
