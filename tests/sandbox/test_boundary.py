"""What a test may ask of a program, and what its failure then says."""

import pytest
import sandboxes

from dlrl.sandbox import client
from dlrl.sandbox import sandbox

PASSED, FAILED, UNKNOWN = (
    client.Outcome.PASSED, client.Outcome.FAILED, client.Outcome.UNKNOWN)


@pytest.fixture(scope="module")
def box():
  with sandboxes.start("all", sandbox.LIMITS) as box:
    yield box


def outcomes(box, code: str, *tests: str, setup="", entry_point="add"):
  result = box.run([sandbox.Program(code, tests, setup, entry_point)])[0]
  assert result.infrastructure_error is None
  return result.outcomes


STOPS = """
class Stop:
  def __getattr__(self, name): raise StopIteration
  def __len__(self): raise StopIteration
  def __bool__(self): raise StopIteration
  def __iter__(self): raise StopIteration
  def __getitem__(self, key): raise StopIteration
  def __setattr__(self, name, value): raise StopIteration
  def __setitem__(self, key, value): raise StopIteration
def add(a, b=0):
  if a == "object": return Stop()
  if a == "async": raise StopAsyncIteration
  raise StopIteration
"""


@pytest.mark.parametrize("test", [
    "assert all(map(lambda x: add(x, 1) == x + 1, range(3)))",
    "assert all(a == b for a, b in zip(map(add, [1], [2]), [3]))",
    "import itertools\nassert all(itertools.starmap(add, [(1, 2)]))",
    "assert list(filter(add, [1])) == []",
    "import itertools\nassert list(itertools.takewhile(add, [1])) == []",
    "assert sum(map(add, [1, 2])) == 0",
    "assert list(iter(lambda: add(1), 3)) == []",
    "import itertools\nassert not list(itertools.accumulate([1, 2], add))",
    "import itertools\nassert not list(itertools.groupby([1], add))",
    "assert all(map(lambda x: add('object').value == x, [1]))",
    "assert all(map(lambda x: len(add('object')) == x, [1]))",
    "assert all(map(bool, [add('object')]))",
    "assert all(map(lambda x: add('object')[0] == x, [1]))",
    "import itertools\n"
    "assert not list(itertools.chain.from_iterable([add('object')]))",
    "assert all(map(lambda x: setattr(add('object'), 'a', x), [1]))",
    "def put(x): add('object')[0] = x\nassert all(map(put, [1]))",
    """
import asyncio
class Cases:
  def __aiter__(self): return self
  async def __anext__(self): return add("async")
async def check():
  async for one in Cases(): assert one == 3
asyncio.run(check())
""",
])
def test_a_program_cannot_end_the_loop_of_a_test(box, test):
  assert outcomes(box, STOPS, test) == (FAILED,)


def test_an_iterator_of_a_program_ends_as_python_iterators_do(box):
  code = "def add(n): return (x for x in range(n))"
  assert outcomes(
      box, code, "assert [*add(3)] == [0, 1, 2]",
      "assert all(x == y for x, y in zip(add(2), [0, 1], strict=True))", """
try: next(add(0))
except StopIteration: pass
else: assert False
""", "assert [*add(3)] == [0, 1]") == (PASSED, PASSED, PASSED, FAILED)


NAMES = ["operation", "opaque", "function", "self", "args", "kwargs", "named",
         "operands", "reference", "name", "key", "value", "channel"]


@pytest.mark.parametrize("entry_point", ["add", ""])
def test_arguments_may_have_any_name(box, entry_point):
  code = "".join(f"""
def f_{name}({name}): return {name} + 1
""" for name in NAMES) + "def add(which, **kwargs):\n" + (
      "  return globals()['f_' + which](**kwargs)\n")
  tests = [f"assert add('{name}', {name}=1) == 2" for name in NAMES]
  assert outcomes(box, code, *tests, entry_point=entry_point) == (
      PASSED,) * len(NAMES)


@pytest.mark.parametrize("text", [
    "datetime.date(2024, 2, 29)", "datetime.datetime(2024, 1, 2, 3, 4, 5, 678)",
    "datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc)",
    "datetime.time(23, 59, 1)", "datetime.timedelta(-3, 7, 11)",
    "{1: [2], 'a': 3}.keys()", "{1: [2], 'a': 3}.items()",
    "[datetime.date(2024, 1, 1)]", "{datetime.date(2024, 1, 1): 5}"])
def test_dates_and_views_are_data(box, text):
  code = f"import datetime\ndef add(): return {text}"
  assert outcomes(box, code, f"assert add() == {text}",
                  f"assert type(add()) is type({text})",
                  "assert add() == 'something else'") == (
      PASSED, PASSED, FAILED)


def test_values_of_a_dict_and_read_only_dicts_are_data(box):
  code = """
import types
def add(which):
  table = {1: "a", 2: "a"}
  return table.values() if which == "values" else types.MappingProxyType(table)
"""
  assert outcomes(
      box, code, "assert list(add('values')) == ['a', 'a']",
      "assert len(add('values')) == 2 and 'a' in add('values')",
      "assert add('dict') == {1: 'a', 2: 'a'}",
      "assert list(add('values')) == ['b', 'a']") == (
          PASSED, PASSED, PASSED, FAILED)


@pytest.mark.parametrize(("test", "right", "wrong"), [
    ("assert add([-2, 1], abs) == [1, -2]", PASSED, FAILED),
    ("assert add(['b', 'aa'], len) == ['b', 'aa']", PASSED, FAILED),
    ("assert add(['B', 'a'], str.lower) == ['a', 'B']", PASSED, FAILED),
    ("import math\nassert add([4, 1], math.sqrt) == [1, 4]", PASSED, FAILED),
    ("import operator\nassert add([4, 1], key=operator.neg) == [4, 1]",
     PASSED, FAILED),
    ("assert add([2, 1], lambda x: -x) == [2, 1]", UNKNOWN, UNKNOWN),
    ("import operator\n"
     "assert add([[2]], operator.itemgetter(0)) == [[2]]", UNKNOWN, UNKNOWN),
    ("import functools\n"
     "assert add([2], functools.partial(pow, 2)) == [2]", UNKNOWN, UNKNOWN),
    ("def key(x): return x\nassert add([2], key) == [2]", UNKNOWN, UNKNOWN),
    ("try: add([2], lambda x: x)\nexcept BaseException: pass", UNKNOWN,
     UNKNOWN),
])
def test_functions_of_the_standard_library_can_be_arguments(
    box, test, right, wrong):
  assert outcomes(box, "def add(x, key): return sorted(x, key=key)", test) == (
      right,)
  assert outcomes(box, "def add(x, key): return [key(x[0]), 7, 7]", test) == (
      wrong,)


SHAPES = """
import enum
class Point:
  def __init__(self, x): self.x = x
  def __eq__(self, other): return True
class Color(enum.Enum):
  RED = 1
"""
POINTS = SHAPES + """
def add(x): return Point(x)
def red(): return Color.RED
"""


@pytest.mark.parametrize(("test", "setup", "outcome"), [
    # No program can pass these here.
    ("assert add(1) == Point(1)", "", UNKNOWN),
    ("assert Point(1) == add(1)", "", UNKNOWN),
    ("assert [add(1)] == [Point(1)]", "", UNKNOWN),
    ("assert add(1) in [Point(1)]", "", UNKNOWN),
    ("assert isinstance(add(1), Point)", "", UNKNOWN),
    ("assert Point(1).x == 1", "", UNKNOWN),
    ("assert not Point(1)", "", UNKNOWN),
    ("assert len(Point(1)) == 1", "", UNKNOWN),
    ("assert add(1) != Point(1)", SHAPES, UNKNOWN),
    ("assert add(1) != Color.RED", SHAPES, UNKNOWN),
    ("import uuid\nassert add(1) == uuid.UUID(int=1)", "", UNKNOWN),
    ("import numpy\nassert add(1) == numpy.ones(3)", "", UNKNOWN),
    ("assert wanted == 1 and add(1)", "wanted = 2", UNKNOWN),
    ("assert add(1).x == 1", "import numpy", UNKNOWN),
    # A right program would return data.
    ("assert add(1) == 1", "", FAILED),
    ("assert 1 == add(1)", "", FAILED),
    ("assert add(1) == add(1)", "", FAILED),
    ("assert [add(1)] == [1]", "", FAILED),
    ("assert add(1) < 2", "", FAILED),
    ("assert isinstance(add(1), int)", "", FAILED),
    ("assert undefined(1) == 2", "", FAILED),
    ("assert add(1).x == 1", "", PASSED),
])
def test_a_failure_counts_only_if_another_program_could_pass(
    box, test, setup, outcome):
  assert outcomes(box, POINTS, test, setup=setup) == (outcome,)


def test_exceptions_that_the_setup_defines_are_the_programs(box):
  setup = """
class Empty(Exception): pass
class Worse(Empty):
  def __init__(self, where, why): self.where = where
class Stop(StopIteration): pass
"""
  code = setup + """
class Unknown(Empty): pass
def add(which):
  if which == 5: bytes([255]).decode()
  if which == 3: raise Worse(1, 2)
  raise {0: Empty, 1: Unknown, 2: KeyError, 4: Stop}[which]("x")
"""
  test = """
try: add({})
except {}: pass
else: assert False
"""
  assert outcomes(
      box, code, test.format(0, "Empty"), test.format(1, "Empty"),
      test.format(5, "UnicodeDecodeError"),
      test.format(2, "Empty"), test.format(2, "KeyError"),
      test.format(3, "Empty"), "assert not list(map(add, [4]))",
      setup=setup) == (PASSED, PASSED, PASSED, FAILED, PASSED, PASSED, FAILED)


def test_a_test_may_look_at_what_the_setup_asked_for(box):
  setup = "wanted, result = 3, add(1, 2)"
  for code, outcome in (("def add(a, b): return a + b", PASSED),
                        ("def add(a, b): return a", FAILED)):
    assert outcomes(box, code, "assert result == wanted", setup=setup,
                    entry_point="") == (outcome,)


@pytest.mark.parametrize("code", [
    "1 / 0", "def add(x)", "import os; os._exit(0)", "raise StopIteration"])
def test_a_program_that_does_not_load_has_failed(box, code):
  assert outcomes(box, code, "assert add(1) == 1") == (FAILED,)
  # Unless what it has in common with the setup is at fault.
  assert outcomes(box, code, "assert add(1) == 1", setup="import numpy") == (
      UNKNOWN,)


def test_a_program_that_ends_between_two_tests_has_failed(box):
  code = """
import os, threading
def add(x):
  threading.Timer(0.1, os._exit, (0,)).start()
  return x
"""
  assert outcomes(
      box, code, "assert add(1) == 1",
      "import time\ntime.sleep(0.5)\nassert add(1) == 2") == (PASSED, FAILED)
