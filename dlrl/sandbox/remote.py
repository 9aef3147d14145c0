"""Proxies in the judge's process for objects of the program's process."""

import builtins
import contextlib
import functools
import operator
import sys
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NoReturn

from dlrl.sandbox import wire


class ProgramLost(BaseException):
  """The program's process has ended, or sent something that is not a reply.

  Not an `Exception`: a test that expects an exception must not accept this.
  """


class Undecidable(BaseException):
  """A test needs what no program can give it here, so it decides nothing.

  Not an `Exception`, for the same reason.
  """


class Channel:
  """The socket to the program's process; whatever it delivers is hostile.

  Attributes:
    lost: whether the program's process has ended or sent an invalid reply.
    asked: how many operations were asked for; a test that fails before it asks
      for any would fail every program.
    names: what the setup defined; its exceptions stand for those of the program
      with the same name, which has the same code.
    undecidable: why the test decides nothing; empty if nothing is known
      against it. Only what the test does may set this, never what the program
      chooses: a wrong program must not escape its verdict.
  """

  def __init__(self, descriptor: int) -> None:
    self._descriptor = descriptor
    self.lost = False
    self.asked = 0
    self.names: Mapping[str, Any] = {}
    self.undecidable = ""

  def receive(self) -> wire.Json:
    """Returns the next message; raises `ProgramLost` without a valid one."""
    try:
      return wire.receive(self._descriptor)
    except (EOFError, OSError, ValueError, MemoryError) as error:
      self._lose(error)

  def load(self, code: str) -> None:
    """Has the program run; raises `ProgramLost`, or what the program raises."""
    wire.send(self._descriptor, code)
    self._value(self.receive(), opaque=False)

  def ask(self, operation: str, operands: Sequence[Any],
          named: Mapping[str, Any], *, opaque: bool) -> Any:
    """Returns the result of an operation in the program's process.

    Args:
      operation: a key of `candidate._OPERATIONS`.
      operands: data or `Remote`. If the program changes mutable ones, they are
        changed here, unless `opaque`.
      named: its named operands.
      opaque: whether any result is a `Remote`, also if it is data.

    Raises:
      ProgramLost: the program's process has ended.
      Undecidable: an operand cannot be sent.
      Exception: what the operation raised, as the setup's class of its name or
        the nearest built-in one.
    """
    try:
      self.asked += 1
      sent = [wire.encode(one, self._refer) for one in operands]
      pairs = {name: wire.encode(one, self._refer)
               for name, one in named.items()}
      wire.send(self._descriptor, [operation, opaque, sent, pairs])
    except wire.TooLarge as error:
      if self.asked > 1:  # it may consist of what the program gave before
        raise
      self.give_up(f"a test passes the program something {error}")
    except OSError as error:
      self._lose(error)
    reply = self.receive()
    try:
      value = self._value(reply, opaque=opaque)
    except (StopIteration, StopAsyncIteration) as error:
      if operation == "next":
        raise
      # It would end the loop around the call, such as that of `all(map(...))`,
      # as if the program had passed.
      raise RuntimeError(f"the program raised {error!r}") from None
    if not opaque:
      try:
        for at, now in reply["changed"].items():
          _assign(operands[int(at)], self._decode(now, opaque=False))
      except Exception as error:
        self._lose(error)
    return value

  def _value(self, reply: wire.Json, *, opaque: bool) -> Any:
    try:
      if "raised" not in reply:
        return self._decode(reply["value"], opaque=opaque)
      raised = _exception(reply, self.names)
    except Exception as error:  # whatever a malformed message leads to
      self._lose(error)
    raise raised

  def _decode(self, sent: wire.Json, *, opaque: bool) -> Any:
    if opaque and sent[0] != "object":
      raise ValueError("data where only a reference is allowed")
    return wire.decode(
        sent, lambda reference: Remote(self, int(reference), opaque=opaque))

  def _refer(self, value: object) -> wire.Json:
    """The program's name for a value that a test gives it."""
    if isinstance(value, Remote):
      return value._remote_reference
    if path := _standard(value):
      return path
    self.give_up(f"a test passes the program a {type(value).__name__}, "
                 "which cannot be sent")

  def give_up(self, why: str) -> NoReturn:
    """Ends a test that decides nothing."""
    self.undecidable = why
    raise Undecidable(why)

  def _lose(self, error: Exception) -> NoReturn:
    self.lost = True
    raise ProgramLost("the program's process ended, ran out of processor time, "
                      "or sent an invalid reply") from error


class Remote:
  """An object of the program's process.

  A test can call, index and iterate it, get and set its attributes, and take it
  for true or false as the program says. Results are data or `Remote`; if the
  object is opaque, they are always `Remote`. Comparisons raise: the program
  would decide them. A comparison with data fails the program, which should have
  returned data; other comparisons leave the test undecided.
  """

  __slots__ = ("_remote_channel", "_remote_opaque", "_remote_reference")
  _remote_channel: Channel

  def __init__(self, channel: Channel, reference: str | int, *,
               opaque: bool) -> None:
    # Not by `self.x = ...`, which would set attributes of the program's object.
    object.__setattr__(self, "_remote_channel", channel)
    object.__setattr__(self, "_remote_reference", reference)
    object.__setattr__(self, "_remote_opaque", opaque)

  def _remote_ask(self, operation: str, *operands: Any) -> Any:
    return self._remote_channel.ask(
        operation, (self, *operands), {}, opaque=self._remote_opaque)

  # Any name may be that of an argument of the program's, also "self".
  def __call__(self, /, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
    return self._remote_channel.ask(
        "call", (self, *args), kwargs, opaque=self._remote_opaque)

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
    self._remote_show()
    return self._remote_ask("len")

  def __iter__(self) -> Iterator[Any]:
    return self._remote_ask("iter")

  def __next__(self) -> Any:
    return self._remote_ask("next")

  def __bool__(self) -> bool:
    self._remote_show()
    return self._remote_ask("bool")

  def __repr__(self) -> str:
    return "<object of the program>"

  __hash__ = object.__hash__

  def __eq__(self, other: object) -> bool:
    self._remote_show()
    if not _is_data(other):
      self._remote_channel.give_up(
          "a test compares objects that are not plain data")
    raise TypeError("an object of the program is not plain data and cannot be "
                    "compared")

  __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__

  def __instancecheck__(self, instance: object) -> bool:
    self._remote_channel.give_up(
        f"a test asks if a {type(instance).__name__} is of the program's class")

  __subclasscheck__ = __instancecheck__

  def _remote_show(self) -> None:
    """Gives up where the test needs to look at what it may not."""
    if self._remote_opaque:
      self._remote_channel.give_up(
          "a test looks at an object that did not come from its entry point")


def _is_data(value: object) -> bool:
  """Whether the program could have sent this value, as data or as its own."""
  def refer(part: object) -> None:
    if not isinstance(part, Remote) or part._remote_opaque:
      raise TypeError

  try:
    wire.encode(value, refer)
  except (TypeError, wire.TooLarge):
    return False
  return True


def _standard(value: object) -> list[str]:
  """Module and name of a function or class of the standard library, or nothing.
  """
  owner = getattr(value, "__objclass__", value)  # a method's class
  home, path = (getattr(owner, "__module__", None),
                getattr(value, "__qualname__", None))
  if not (callable(value) and isinstance(home, str) and isinstance(path, str)
          and home in sys.stdlib_module_names):
    return []
  try:
    found = operator.attrgetter(path)(sys.modules[home])
  except (AttributeError, KeyError):
    return []
  return [home, path] if found is value else []


def _exception(reply: wire.Json, names: Mapping[str, Any]) -> Exception:
  """Rebuilds the exception that the program raised, of a class known here."""
  known = [names.get(str(name)) for name in reply["names"]]
  kind = next((one for one in known if isinstance(one, type)
               and issubclass(one, Exception)), None)
  kind = kind or getattr(builtins, reply["raised"])
  text = str(reply["text"])
  if not issubclass(kind, Exception):
    raise TypeError(f"{kind} is not an exception class")
  # Some need more arguments; their class is what a test looks at.
  for make in (kind, functools.partial(kind.__new__, kind)):
    with contextlib.suppress(Exception):
      return make(text)
  return ValueError(text)


def _assign(old: Any, new: Any) -> None:
  """Repeats on a mutable argument what the program did to its copy."""
  if isinstance(old, list | bytearray):
    old[:] = new
  elif isinstance(old, dict | set):
    old.clear()
    old.update(new)
  else:
    raise TypeError(f"{type(old).__name__} is not mutable")
