import os

import hypothesis
import pytest
from hypothesis import strategies as st

from dlrl.sandbox import wire

SCALARS = (st.none() | st.booleans() | st.integers() | st.text()
           | st.floats(allow_nan=False) | st.binary()
           | st.complex_numbers(allow_nan=False)
           | st.fractions() | st.decimals(allow_nan=False)
           | st.sampled_from([int, str, list]))
VALUES = st.recursive(
    SCALARS, lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple)
        | st.frozensets(SCALARS) | st.sets(SCALARS)
        | st.dictionaries(SCALARS, inner)), max_leaves=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    | st.tuples(st.sampled_from([
        "int", "list", "set", "dict", "object", "bytes", "range", "type",
        "complex", "Fraction", "Decimal", "deque"]), inner).map(list),
    max_leaves=20)


def refuse(value: object) -> None:
  raise AssertionError(f"{value!r} is not data")


def shape(value):
  """A value with the types of its parts, which `==` does not compare."""
  if isinstance(value, list | tuple | set | frozenset):
    parts = [shape(one) for one in value]
    return type(value), parts if isinstance(value, list | tuple) else {
        repr(one) for one in parts}
  if isinstance(value, dict):
    return dict, [(shape(key), shape(one)) for key, one in value.items()]
  return type(value), repr(value)


@hypothesis.given(VALUES)
@hypothesis.settings(deadline=None, max_examples=100, database=None)
def test_values_arrive_as_they_were_sent(value):
  read, write = os.pipe()
  try:
    wire.send(write, wire.encode(value, refuse))
    arrived = wire.decode(wire.receive(read), refuse)
  finally:
    os.close(read)
    os.close(write)
  assert shape(arrived) == shape(value)


@hypothesis.given(JSON)
@hypothesis.settings(deadline=None, max_examples=200, database=None)
def test_whatever_arrives_is_data_or_an_error(sent):
  try:
    value = wire.decode(sent, lambda reference: None)
  except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
    return
  assert type(value).__module__ in (
      "builtins", "fractions", "decimal", "collections")


@pytest.mark.parametrize("make", [
    lambda inner: [inner], lambda inner: {1: inner}, lambda inner: (inner,)])
def test_depth_is_bounded(make):
  deep = []
  for _ in range(10_000):
    deep = make(deep)
  with pytest.raises(wire.TooLarge):
    wire.encode(deep, refuse)


def test_the_number_of_values_is_bounded(monkeypatch):
  monkeypatch.setattr(wire, "_MAX_VALUES", 10_000)
  wide = [[]] * 1000
  for _ in range(3):
    wide = [wide] * 1000  # a billion places, but few objects
  with pytest.raises(wire.TooLarge):
    wire.encode(wide, refuse)


@pytest.fixture
def pipe():
  read, write = os.pipe()
  yield read, write
  os.close(read)
  os.close(write)


def test_a_message_that_is_too_long_is_not_sent(pipe):
  with pytest.raises(wire.TooLarge):
    wire.send(pipe[1], "x" * (wire.MAX_BYTES + 1))


@pytest.mark.parametrize("sent", [
    b"\xff\xff\xff\xff", b"\0\0\0\x01[", b"\0\0\0\0", b"\0\0\0\x01\xff",
    b"\0\0\x75\x30" + b"[" * 30_000])
def test_a_malformed_message_is_an_error(pipe, sent):
  os.write(pipe[1], sent)
  with pytest.raises(ValueError):
    wire.receive(pipe[0], 1)


def test_waiting_for_a_message_has_a_limit(pipe):
  os.write(pipe[1], b"\0\0\0\x01")
  with pytest.raises(TimeoutError):
    wire.receive(pipe[0], 0.01)


def test_the_end_of_the_other_side_is_noticed():
  read, write = os.pipe()
  os.write(write, b"\0\0\0\x01")
  os.close(write)
  with pytest.raises(EOFError):
    wire.receive(read)
  os.close(read)
