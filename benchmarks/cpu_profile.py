"""Where a program's time on a CPU goes, for `benchmarks.torch_reference`.

The profiler names the instruction of every event; the program's text tells what
an instruction does.
"""

import collections
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax

from dlrl.costs import hlo_text

# Instructions that do nothing themselves, or whose events contain others'.
_NO_WORK = frozenset({
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "reshape",
  "while", "conditional", "call"})
_SLICES = frozenset({"dynamic-slice", "dynamic-update-slice", "slice"})
Program = dict[str, list[hlo_text.Line]]


def kinds(text: str) -> dict[str, str]:
  """The kinds of a compiled program's instructions, by their names.

  A fusion is one instruction, named after the first of these that is in it:
  `products`; `transposed copies`; `zeros`, if there is nothing but values that
  are repeated, as where a loop's results are to be; `slices` of loops' inputs
  and results; `elementwise and sums`.
  """
  program, _ = hlo_text.computations(text)
  return {line.name: _kind(line, program)
          for lines in program.values() for line in lines
          if line.op not in _NO_WORK}


def _kind(line: hlo_text.Line, program: Program) -> str:
  ops = {inner.op for name in line.called for inner in program[name]
         } if line.op == "fusion" else {line.op}
  ops -= _NO_WORK
  if "dot" in ops:
    return "products"
  if ops & {"copy", "transpose"}:
    return "transposed copies"
  if ops <= {"broadcast"}:
    return "zeros"
  if ops & _SLICES and ops <= _SLICES | {"broadcast", "compare", "select",
                                         "add"}:
    return "slices"
  return "elementwise and sums"


def shares(compiled: jax.stages.Compiled, run: Callable[[], Any]
           ) -> dict[str, float]:
  """Shares of the time of all events, by kind, largest first.

  Events of two threads may be at the same time, and each counts.

  Args:
    compiled: the program.
    run: runs it.
  """
  found = kinds(compiled.as_text() or "")
  seconds: collections.Counter[str] = collections.Counter()
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      jax.block_until_ready(run())
    trace, = pathlib.Path(folder).rglob("*.xplane.pb")
    data = jax.profiler.ProfileData.from_file(str(trace))
    for plane in data.planes:
      for line in plane.lines:
        for event in line.events:
          if event.name in found:
            seconds[found[event.name]] += event.duration_ns / 1e9
  return {kind: value / seconds.total() for kind, value in
          seconds.most_common()}
