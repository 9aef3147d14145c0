"""What one program uses up is its own loss, and nobody else's."""

import time

import pytest
import sandboxes

from dlrl.sandbox import client
from dlrl.sandbox import sandbox

FAILED = client.Outcome.FAILED


def nested(depth: int) -> str:
  """Statements that Python compiles in time exponential in `depth`."""
  return "".join(f"{' ' * i}try: pass\n{' ' * i}finally:\n"
                 for i in range(depth)) + " " * depth + "pass\n"


@pytest.mark.parametrize("code", [
    nested(17) + "def add(a, b): return a + b",
    f"def add(a, b): return compile({nested(17)!r}, '', 'exec')",
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
