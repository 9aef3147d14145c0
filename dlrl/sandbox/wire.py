"""Plain data between processes that do not trust each other.

A message is its length in four bytes, then JSON. Values are None, bool, int,
float and str, and, as tagged lists, complex, bytes, list, tuple, set,
frozenset, dict and a few more. The receiver rebuilds exactly these types and so
never calls a method that the sender defined. Other objects stay with their
process and are sent as references. Size, depth and number are bounded.
"""

import collections
import datetime
import decimal
import fractions
import json
import os
import select
import time
import types
from collections.abc import Callable
from typing import Any

MAX_BYTES = 16 << 20  # of a message
MAX_REASON = 200  # characters of the reason why a test failed
_MAX_DEPTH = 100
_MAX_VALUES = 1 << 20  # in one message
# Larger ints are sent in hex: Python converts at most 4,300 decimal digits.
_MAX_DECIMAL = 1 << 53

Json = Any

_SEQUENCES: dict[type, str] = {
    list: "list", tuple: "tuple", set: "set", frozenset: "frozenset",
    collections.deque: "deque"}
_KINDS: dict[str, Callable[..., Any]] = {
    name: kind for kind, name in _SEQUENCES.items()}
_TYPES: dict[str, type] = {
    kind.__name__: kind for kind in (
        bool, bytes, complex, dict, float, frozenset, int, list, object, set,
        str, tuple)}
# Maps the tags of values without parts to what rebuilds them.
_LEAVES: dict[str, Callable[..., Any]] = {
    "int": lambda digits: int(digits, 16),
    "bytes": lambda text: text.encode("latin-1"),
    "bytearray": lambda text: bytearray(text.encode("latin-1")),
    "complex": complex,
    "range": lambda *bounds: range(*map(int, bounds)),
    "type": _TYPES.__getitem__,
    # Not from a decimal: the receiver would work out its power of ten.
    "Fraction": lambda top, bottom: fractions.Fraction(
        int(top, 16), int(bottom, 16)),
    "Decimal": decimal.Decimal,
    "date": datetime.date.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": datetime.timedelta,
}
_TIMES = (datetime.date, datetime.datetime, datetime.time)
_ZONES = (type(None), datetime.timezone)  # others are classes with rules
# A view of a dict is sent with a dict that has such a view.
_VIEWS: dict[type, tuple[str, Callable[[Any], dict[Any, Any]]]] = {
    type({}.keys()): ("keys", dict.fromkeys),
    type({}.values()): ("values", lambda view: dict(enumerate(view))),
    type({}.items()): ("items", dict),
}
_VIEW_OF: dict[str, Callable[[Any], Any]] = {
    "keys": dict.keys, "values": dict.values, "items": dict.items}
# An instance of a subclass is sent as its base: (base, conversion to it). These
# call the base's own methods, as the subclass may have others.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__), (float, float.__float__), (str, str.__str__),
    (dict, dict), (list, list), (tuple, tuple), (set, set),
    (frozenset, frozenset))


class TooLarge(ValueError):
  """A value with too many parts, too deeply nested, or in a cycle."""


def send(descriptor: int, message: Json) -> None:
  """Writes a message.

  Raises:
    TooLarge: the message has more than `MAX_BYTES`.
    OSError: the other end is closed.
  """
  body = json.dumps(message).encode()
  if len(body) > MAX_BYTES:
    raise TooLarge(f"{len(body)} bytes")
  rest = memoryview(len(body).to_bytes(4, "big") + body)
  while rest:
    rest = rest[os.write(descriptor, rest):]


def receive(descriptor: int, timeout: float | None = None) -> Json:
  """Reads a message.

  Raises:
    TimeoutError: the message was not complete within `timeout` seconds.
    EOFError: the other end was closed.
    ValueError: what came is not a message.
  """
  end = None if timeout is None else time.monotonic() + timeout
  length = int.from_bytes(_read(descriptor, 4, end), "big")
  if length > MAX_BYTES:
    raise ValueError(f"a message of {length} bytes")
  try:
    return json.loads(_read(descriptor, length, end))
  except RecursionError as error:
    raise ValueError("a message too deeply nested") from error


def _read(descriptor: int, size: int, end: float | None) -> bytes:
  parts = bytearray()
  while len(parts) < size:
    if end is not None:
      poll = select.poll()
      poll.register(descriptor, select.POLLIN)
      if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
        raise TimeoutError
    try:
      part = os.read(descriptor, min(size - len(parts), 1 << 16))
    except ConnectionResetError:
      part = b""
    if not part:
      raise EOFError
    parts += part
  return bytes(parts)


def encode(value: object, refer: Callable[[object], Json]) -> Json:
  """Returns `value` as JSON.

  An instance of a subclass is sent as its base: an `OrderedDict` as a dict.

  Args:
    value: what to send.
    refer: gives the reference of an object that is not data.

  Raises:
    TooLarge: too many parts, too deeply nested, or in a cycle.
  """
  left = _MAX_VALUES

  def parts(values: Any, depth: int) -> list[Json]:
    return [one(value, depth + 1) for value in values]

  def one(value: Any, depth: int) -> Json:
    nonlocal left
    left -= 1
    if depth > _MAX_DEPTH or left < 0:
      raise TooLarge("too large, too deeply nested, or contains itself")
    kind: Any = type(value)
    if value is None or kind in (bool, str, float):
      return value
    if kind is int:
      return (value if -_MAX_DECIMAL < value < _MAX_DECIMAL
              else ["int", hex(value)])
    if kind in _SEQUENCES:
      return [_SEQUENCES[kind], parts(value, depth)]
    if kind is dict:
      return ["dict", parts(value.keys(), depth), parts(value.values(), depth)]
    if kind in (bytes, bytearray):
      return [kind.__name__, value.decode("latin-1")]
    if kind in _VIEWS:
      name, mapping = _VIEWS[kind]
      return ["view", name, one(mapping(value), depth)]
    if kind is datetime.timedelta:
      return ["timedelta", value.days, value.seconds, value.microseconds]
    if kind in _TIMES and type(getattr(value, "tzinfo", None)) in _ZONES:
      return [kind.__name__, value.isoformat()]
    if kind is complex:
      return ["complex", value.real, value.imag]
    if kind is range:
      return ["range", *map(str, (value.start, value.stop, value.step))]
    if kind is fractions.Fraction:
      return ["Fraction", hex(value.numerator), hex(value.denominator)]
    if kind is decimal.Decimal:
      return ["Decimal", str(value)]
    if kind is type and value in _TYPES.values():
      return ["type", value.__name__]
    if kind is types.MappingProxyType:
      return one(dict(value), depth)
    for base, plain in _BASES:
      if isinstance(value, base):
        return one(plain(value), depth)
    return ["object", refer(value)]

  return one(value, 0)


def decode(sent: Json, find: Callable[[Json], Any]) -> Any:
  """Returns the value that `encode` was given.

  Args:
    sent: the JSON of `encode`.
    find: gives the object of a reference.

  Raises:
    ValueError, TypeError, and others that a malformed message leads to.
  """
  if not isinstance(sent, list):
    return sent
  tag, rest = sent[0], sent[1:]
  if tag in _KINDS:
    return _KINDS[tag]([decode(part, find) for part in rest[0]])
  if tag == "dict":
    return dict(zip((decode(part, find) for part in rest[0]),
                    (decode(part, find) for part in rest[1]), strict=True))
  if tag == "object":
    return find(rest[0])
  if tag == "view":
    return _VIEW_OF[rest[0]](decode(rest[1], find))
  if tag in _LEAVES:
    return _LEAVES[tag](*rest)
  raise ValueError(f"tag {tag!r}")
