import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import sandboxes

from dlrl import strict
from dlrl.sandbox import sandbox


@pytest.fixture(scope="module")
def box():
  with sandboxes.start("all", sandbox.LIMITS) as box:
    yield box


def verdicts(box, code: str, *tests: str, setup="", entry_point="add"):
  result = box.run([sandbox.Program(code, tests, setup, entry_point)])[0]
  assert result.infrastructure_error is None
  return result.passed


ADD = "def add(a, b): return a + b"
WRONG = "def add(a, b): return a - b\n"


def test_each_test_has_its_verdict(box):
  assert verdicts(box, ADD, "assert add(1, 2) == 3", "assert add(1, 2) == 4",
                  "assert add('a', 'b') == 'ab'") == (True, False, True)


def test_a_failed_test_says_why(box):
  result = box.run([sandbox.Program(
      ADD, ("assert add(1, 2) == 4, 'four'", "add(1)", "sub(1)"))])[0]
  assert result.reasons[0] == "AssertionError: four"
  assert "missing 1 required positional argument" in result.reasons[1]
  assert "name 'sub' is not defined" in result.reasons[2]


@pytest.mark.slow
def test_a_test_that_does_not_end_costs_only_that_test():
  code = """
def add(a, b):
  while a == 2: pass
  return a + b
"""
  with sandboxes.start("all") as box:
    assert verdicts(box, code, *(f"assert add({a}, 1) == {a + 1}"
                                 for a in (1, 2, 3))) == (True, False, True)


def test_a_test_that_kills_the_program_costs_only_that_test(box):
  code = """
import os
def add(a, b): return os._exit(0) if a == 2 else a + b
"""
  assert verdicts(box, code, *(f"assert add({a}, 1) == {a + 1}"
                               for a in (1, 2, 3))) == (True, False, True)


def test_the_end_of_the_program_does_not_pass_for_an_expected_exception(box):
  test = """
try: add(1, 2)
except BaseException: pass
else: assert False
"""
  assert verdicts(box, "def add(a, b): raise ValueError", test) == (True,)
  assert verdicts(box, "import os\ndef add(a, b): os._exit(0)", test) == (
      False,)


def test_exceptions_keep_their_builtin_class(box):
  code = """
class Mine(KeyError): pass
def add(a, b): raise Mine(a)
"""
  assert verdicts(box, code, """
try: add(1, 2)
except LookupError: pass
""", "add(1, 2)") == (True, False)


def test_functions_of_a_test_find_the_program(box):
  test = """
def check(function):
  assert function(1, 2) == add(1, 2) == 3
check(add)
"""
  assert verdicts(box, ADD, test) == (True,)
  assert verdicts(box, WRONG, test) == (False,)


def test_a_module_that_a_test_forgot_to_import_is_not_the_programs(box):
  test = "assert math.isclose(add(1, 2), 3)"
  forged = "class math:\n  isclose = lambda *args: True\n"
  assert verdicts(box, ADD, test) == (True,)
  assert verdicts(box, forged + WRONG, test) == (False,)


def test_what_a_setup_defines_is_not_the_programs(box):
  setup = """
def same(a, b): return a == b
def add(a, b): return 0
"""
  test = "assert same(add(1, 2), 3)"
  forged = "def same(a, b): return True\n"
  assert verdicts(box, ADD, test, setup=setup) == (True,)
  assert verdicts(box, forged + WRONG, test, setup=setup) == (False,)


@pytest.mark.parametrize("forged", [
    "def same(a, b): return True",
    "class same:\n  def __init__(self, *args): pass",
    "class same(int):\n  def __new__(cls, *args): return 1",
])
def test_other_names_of_the_program_give_a_test_nothing_to_look_at(box, forged):
  for test in ("assert same(add(1, 2), 3)", "assert same(add(1, 2), 3) == True",
               "if not same(add(1, 2), 3): raise ValueError"):
    assert verdicts(box, f"{WRONG}{forged}", test) == (False,)


def test_a_test_can_give_back_objects_of_the_program(box):
  code = """
class Node:
  def __init__(self, value): self.value, self.left = value, None
def add(node): return node.value + (add(node.left) if node.left else 0)
"""
  setup = """
root = Node(1)
root.left = Node(2)
root.left.left = Node(4)
"""
  assert verdicts(box, code, "assert add(root) == 7",
                  "assert add(Node(value=5)) == 5", setup=setup) == (True,) * 2


def test_the_programs_objects_can_be_used_but_not_compared(box):
  code = """
import re
class Pair:
  items = [1, 2]
  def __eq__(self, other): return True
  def __len__(self): return 2
  def __getitem__(self, key): return self.items[key]
def add(kind):
  if kind == "pair": return Pair()
  if kind == "generator": return (x * x for x in range(3))
  if kind == "function": return lambda x, y=1: x + y
  if kind == "match": return re.match("a", "ab")
  if kind == "no match": return re.match("a", "b")
"""
  assert verdicts(
      box, code, "assert list(add('generator')) == [0, 1, 4]",
      "assert next(add('generator')) == 0",
      "assert add('function')(1, y=4) == 5",
      "assert add('match')", "assert not add('no match')",
      "assert add('match').group() == 'a'",
      "assert add('pair').items == [1, 2]",
      "assert len(add('pair')) == 2 and add('pair')[1] == 2") == (True,) * 8
  assert verdicts(
      box, code, "assert add('pair') == [1, 2]", "assert [1, 2] == add('pair')",
      "assert not add('pair') != [1, 2]", "assert 5 in add('pair')",
      "assert add('pair') in [3]", "assert add('pair') <= 3") == (False,) * 6


def test_data_keep_their_type_and_subclasses_become_their_base(box):
  code = "import collections, enum\ndef add(text): return eval(text)"
  for text in ("None", "True", "1", "-10 ** 5000", "0.1", "float('inf')", "'é'",
               "'\\ud800'", "b'\\xff'", "bytearray(b'a')", "1j", "[1, [2]]",
               "(1, (2,), ())", "{1, 2}", "frozenset([(1, 2)])", "range(3, 9)",
               "{'a': [1], 2: {}, (1, 2): None}", "int", "list",
               "__import__('fractions').Fraction(1, 3)",
               "__import__('decimal').Decimal('1.50')",
               "__import__('collections').deque([1])"):
    assert verdicts(
        box, code, f"value = add({text!r})\n"
        f"assert value == {text} and type(value) is type({text})") == (True,)
  for text, plain in (
      ("collections.Counter('aab')", "{'a': 2, 'b': 1}"),
      ("collections.OrderedDict(b=1, a=2)", "{'a': 2, 'b': 1}"),
      ("collections.namedtuple('T', 'a b')(1, 2)", "(1, 2)"),
      ("enum.IntEnum('E', 'A').A", "1")):
    assert verdicts(
        box, code, f"value = add({text!r})\n"
        f"assert value == {plain} and type(value) is type({plain})") == (True,)


def test_arguments_that_the_program_changes_are_changed(box):
  code = """
def add(rows, table, unchanged):
  rows.append([3])
  rows[0][0] = 9
  table.clear()
"""
  assert verdicts(box, code, """
rows, table, unchanged = [[1], [2]], {'a': 1}, [1]
assert add(rows, table, unchanged) is None
assert rows == [[9], [2], [3]] and table == {} and unchanged == [1]
""") == (True,)


def test_an_argument_that_cannot_be_sent_has_a_reason(box):
  result = box.run([sandbox.Program(
      "def add(f): return f(1)", ("assert add(lambda x: x) == 1",))])[0]
  assert result.reasons == (
      "a test passes the program a function, which cannot be sent",)


def test_tests_share_nothing_but_the_program(box):
  assert verdicts(box, ADD, "x = 1", "assert x == 1") == (True, False)


def test_a_program_has_the_whole_standard_library(box):
  code = """
import asyncio, colorsys, graphlib, threading
async def later(): await asyncio.sleep(0); return 1
def add(a, b):
  kept = []
  thread = threading.Thread(target=kept.append, args=(1,))
  thread.start()
  thread.join()
  return [kept, asyncio.run(later()), colorsys.rgb_to_hsv(0, 0, 0)[0],
          __import__('datetime').datetime.strptime('2020', '%Y').year,
          'a'.encode('utf-16-le').decode('utf-16-le')]
"""
  assert verdicts(box, code, "assert add(1, 2) == [[1], 1, 0.0, 2020, 'a']",
                  ) == (True,)


def test_a_program_has_an_empty_temporary_directory():
  code = """
import os, tempfile
def add(a, b):
  found = os.listdir()
  with tempfile.NamedTemporaryFile("w+") as file:
    file.write(str(a + b))
    file.seek(0)
    open("kept", "w").close()
    return found, int(file.read())
"""
  with sandboxes.start("namespaces only") as box:
    for _ in range(2):
      assert verdicts(box, code, "assert add(1, 2) == ([], 3)") == (True,)


def test_files_are_bounded_in_size_and_number():
  code = """
import os
def size():
  found = 0
  try:
    for name in range(100):
      with open(str(name), "wb") as file: found += file.write(bytes(1 << 20))
  except OSError: pass
  return found
def add(a, b):
  found = size()
  for name in os.listdir():
    os.remove(name) if os.path.isfile(name) else os.rmdir(name)
  try:
    for name in range(10_000): os.mkdir(str(name))
  except OSError: pass
  return found, len(os.listdir())
"""
  limits = sandbox.ProgramLimits(files_mib=16, total_s=60)
  with sandboxes.start("namespaces only", limits) as box:
    assert verdicts(
        box, code, "assert 0 < add(1, 2)[0] <= 1 << 24",
        "assert 1000 < add(1, 2)[1] <= 1024") == (True,) * 2


def test_a_judge_that_ends_gives_no_verdict(box):
  code = "import time\ndef add(a, b): time.sleep(60)"
  test = """
import os, threading
threading.Timer(0.1, os._exit, (0,)).start()
add(1, 2)
"""
  start = time.monotonic()
  result = box.run([sandbox.Program(code, (test,))])[0]
  assert "judge" in result.infrastructure_error
  assert time.monotonic() - start < sandbox.LIMITS.wall_s


def test_the_server_may_die(box):
  starts = box._server.starts
  job = sandbox.Program(
      "import time\n" + ADD + "\ntime.sleep(0.3)", ("assert add(1, 2) == 3",))
  pool_result = []
  thread = threading.Thread(
      target=lambda: pool_result.extend(box.run([job] * 4)))
  thread.start()
  time.sleep(0.2)
  os.kill(box._server.pid, signal.SIGKILL)
  thread.join()
  assert [result.passed for result in pool_result] == [(True,)] * 4
  assert not any(result.infrastructure_error for result in pool_result)
  assert box._server.starts == starts + 1


def test_a_sandbox_that_fails_is_not_a_program_that_fails(box, monkeypatch):
  sandboxes.no_process_in_time(monkeypatch)
  result = box.run([sandbox.Program(ADD, ("assert add(1, 2) == 3",))])[0]
  assert result.infrastructure_error is not None
  assert result.passed == (False,)


def test_a_test_that_is_not_python_says_nothing_about_the_program(box):
  result = box.run([sandbox.Program(ADD, ("assert add(1, 2) ==",))])[0]
  assert "does not compile" in result.infrastructure_error
  assert result.passed == (False,)


def test_it_refuses_to_run_unprotected_unless_told_to():
  everything = ("namespaces", "filter")
  with pytest.raises(
      strict.ConfigError,
      match=r"^config.task.sandbox_allow = \(\): .*reach files"):
    sandbox.Sandbox(sandboxes.SHORT, without=everything)
  with pytest.raises(strict.ConfigError, match="reach network"):
    sandbox.Sandbox(
        sandboxes.SHORT, without=everything, allow_missing=["files"])
  with sandbox.Sandbox(
      sandboxes.SHORT, without=everything,
      allow_missing=["files", "network", "processes"]) as box:
    assert "files OPEN; network OPEN; processes OPEN" in box.protections
    assert verdicts(box, ADD, "assert add(1, 2) == 3") == (True,)


@pytest.mark.parametrize("module", ["dlrl.sandbox", "dlrl.tasks.code_sandbox"])
def test_protections_are_one_line(module):
  text = subprocess.run(
      [sys.executable, "-W", "error::RuntimeWarning", "-m", module], check=True,
      stdout=subprocess.PIPE, text=True).stdout
  assert re.fullmatch(r"code sandbox: .*(closed|OPEN).*\n", text)


def test_a_program_needs_a_test_and_has_bounds():
  with pytest.raises(strict.ConfigError, match="at least one test"):
    sandbox.Program(ADD, ())
  with pytest.raises(strict.ConfigError, match="at most"):
    sandbox.Program("x" * (sandbox.MAX_CHARACTERS + 1), ("",))
  with pytest.raises(strict.ConfigError, match=r"Limits\(cpu_s=0\): must"):
    sandbox.ProgramLimits(cpu_s=0)


@pytest.mark.parametrize("settings", [
    {"workers": 0}, {"without": ["filters"]}, {"allow_missing": ["file"]}])
def test_invalid_settings_are_refused(settings):
  argument = next(iter(settings))
  with pytest.raises(strict.ArgumentError, match=rf"^Sandbox\({argument}="):
    sandbox.Sandbox(sandboxes.SHORT, **settings)
