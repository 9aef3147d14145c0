"""How often the loops of a compiled program run, read from its text."""

import re
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

from dlrl.costs import hlo_text

Computations = Mapping[str, Sequence[hlo_text.Line]]

_LOOP = re.compile(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_COUNTING = frozenset({"parameter", "get-tuple-element", "constant", "compare",
                       "fusion", "bitcast", "copy"})


def parts(line: hlo_text.Line) -> tuple[str, str]:
  """The names of a loop's condition and of its body."""
  condition, body = _LOOP.findall(line.rest)[0]
  return condition, body


def trips(program: Computations, computation: str, line: hlo_text.Line
          ) -> int | None:
  """How often a loop's body runs; None if that depends on data.

  Args:
    program: instructions by computation.
    computation: that the loop is in.
    line: the loop.
  """
  if known := _KNOWN.search(line.rest):
    return int(known[1])
  condition, body = parts(line)
  text = list(_within(program, condition))
  limits = [n for x in text if (n := _constant(x)) is not None]
  compared = [x for x in text if x.op == "compare"]
  counters = [x for x in program[condition] if x.op == "get-tuple-element"
              and re.match(r"[su](32|64)\[\]", x.shape)]
  if (len(limits) != 1 or len(compared) != 1 or len(counters) != 1
      or not {x.op for x in text} <= _COUNTING
      or "direction=LT" not in compared[0].rest):
    return None
  index = re.search(r"index=(\d+)", counters[0].rest)
  assert index is not None
  first = _value(program, computation, line.operands[0], int(index[1]))
  root = next(x for x in program[body] if x.root)
  step = _step(program, body, root.operands[int(index[1])])
  # A TPU's windowed products do two windows at a time, and count in twos.
  return -(-(limits[0] - first) // step)


def _within(program: Computations, computation: str) -> Iterator[hlo_text.Line]:
  for line in program[computation]:
    yield line
    for name in line.called:
      yield from _within(program, name)


def _constant(line: hlo_text.Line) -> int | None:
  if line.op != "constant" or not re.match(r"[su](32|64)\[\]", line.shape):
    return None
  return int(line.rest.partition(")")[0])


def _line(program: Computations, computation: str, name: str) -> hlo_text.Line:
  """The instruction `name`, or the one that it is a copy of."""
  line = next(x for x in program[computation] if x.name == name)
  if line.op in ("copy", "bitcast"):
    return _line(program, computation, line.operands[0])
  return line


def _value(program: Computations, computation: str, name: str, index: int
           ) -> int:
  """The counter that a loop starts at; 0 if the text does not tell."""
  state = _line(program, computation, name)
  if state.op != "tuple":
    return 0
  return _constant(_line(program, computation, state.operands[index])) or 0


def _step(program: Computations, body: str, name: str) -> int:
  """The increment of a loop's counter; 1 if the text does not tell."""
  line, inside, index = _line(program, body, name), body, 0
  if line.op == "get-tuple-element":
    index = int(line.rest.partition("index=")[2].partition(",")[0])
    line = _line(program, body, line.operands[0])
  if line.op == "fusion":
    inside = line.called[0]
    line = next(x for x in program[inside] if x.root)
    if line.op == "tuple":
      line = _line(program, inside, line.operands[index])
  if line.op != "add":
    return 1
  found = [n for x in line.operands
           if (n := _constant(_line(program, inside, x))) is not None]
  return found[0] if found else 1
