"""The collective operations in a compiled program."""

import math
import re

COLLECTIVE = re.compile(
  r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|"
  r"collective-permute)(?:-start)?\(")


def collectives(hlo):
  """(computation, operation, number of elements) per communicated array."""
  found, computation = [], ""
  for line in hlo.splitlines():
    if line.endswith("{") and not line.startswith(" "):
      computation = line.split()[0]
    elif match := COLLECTIVE.search(line):
      shapes = re.findall(r"\[([\d,]*)\]", match.group(1))
      sizes = [math.prod(int(n) for n in s.split(",") if n) for s in shapes]
      found += [(computation, match.group(2), n) for n in sizes]
  return found
