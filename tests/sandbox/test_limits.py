"""What one program uses up is its own loss, and nobody else's."""

import os
import pathlib
import re
import subprocess
import time

import pytest
import sandboxes

from dlrl.sandbox import client
from dlrl.sandbox import sandbox

ROOT = pathlib.Path(__file__).parents[2]
FAILED = client.Outcome.FAILED


def nested(depth: int) -> str:
  """Statements that Python compiles in time exponential in `depth`."""
  return "".join(f"{' ' * i}try: pass\n{' ' * i}finally:\n"
                 for i in range(depth)) + " " * depth + "pass\n"


@pytest.mark.slow
@pytest.mark.parametrize("code", [
    f"while True: compile({nested(14)!r}, '', 'exec')",
    "def add(a, b): return 3 ** (3 ** (3 ** 3))",
    "import re\ndef add(a, b): return re.match('(a*)*b', 'a' * 99)",
    "def add(a, b): return sum(range(10 ** 12))",
])
def test_processor_time_is_limited_in_c_as_well(code):
  limits = sandbox.ProgramLimits(cpu_s=1, wall_s=60, total_s=60)
  with sandboxes.start("all", limits) as box:
    start = time.monotonic()
    result = box.run([sandbox.Program(
        code, ("assert add(1, 2) == 3",), entry_point="add")])[0]
  assert result.outcomes == (FAILED,)
  assert "ran out of processor time" in result.reasons[0]
  assert time.monotonic() - start < 30


HOG = """
import threading, time
threading.stack_size(1 << 16)
def add(seconds):
  count = 0
  try:
    while count < 3000:
      threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
      count += 1
  except RuntimeError: pass
  time.sleep(seconds)
  return count
"""
USER = """
import threading, time
threading.stack_size(1 << 16)
def add(seconds):
  time.sleep(seconds)
  threads = [threading.Thread(target=time.sleep, args=(0.1,))
             for _ in range(20)]
  for thread in threads: thread.start()
  for thread in threads: thread.join()
  return len(threads)
"""


@pytest.mark.slow
@pytest.mark.parametrize("tier", sandboxes.TIERS)
def test_each_program_has_its_own_number_of_threads(tier):
  limits = sandbox.ProgramLimits(cpu_s=5, processes=40)
  hog = sandbox.Program(HOG, ("assert 10 < add(2) < 40",), entry_point="add")
  user = sandbox.Program(USER, ("assert add(1) == 20",), entry_point="add")
  with sandboxes.start(tier, limits, workers=3) as box:
    results = box.run([hog, hog, user])
  assert [result.reasons for result in results] == [("",)] * 3


UNPRIVILEGED = """
import sys
from dlrl.sandbox import sandbox
for without in ((), ("namespaces",), ("filter",)):
  with sandbox.Sandbox(sandbox.ProgramLimits(processes=40),
                       without=without) as box:
    tests = ("assert 10 < add(0) < 40",)
    print(box.run([sandbox.Program(sys.argv[1], tests, entry_point="add")]))
"""


def test_threads_are_limited_for_a_user_without_rights_as_well():
  python = pathlib.Path("/usr/bin/python3")
  if os.geteuid() or not python.exists():
    pytest.skip("needs root, which gives up its rights, and a common Python")
  done = subprocess.run(
      [python, "-B", "-c", UNPRIVILEGED, HOG], user=12345, group=12345,
      extra_groups=[], env={"PYTHONPATH": str(ROOT)}, cwd="/", text=True,
      stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
  if done.returncode and re.search("Permission|No module|Syntax", done.stdout):
    pytest.skip(f"not on this machine: {done.stdout[-200:]}")
  assert done.stdout.count("Outcome.PASSED") == 3, done.stdout
