"""Countdown problems with four or five numbers from 1 to 99, computed.

Numbers are drawn at random. Each choice of numbers appears once, whatever its
order, so the splits share no problem. Half of the problems can be solved with +
and - only, difficulty 1; the others cannot, difficulty 2. Targets go from 1 to
99. The target of a problem of difficulty 2 is the value of a random expression
in which every step gives a positive integer. All random choices use raw PCG64
words, a stream that NumPy promises to keep.
"""

import functools
import itertools
from collections.abc import Iterator
from collections.abc import Sequence

import numpy as np

from dlrl.tasks.countdown import data as countdown_data
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.datasets import computed

PER_DIFFICULTY = {"train": 4000, "validation": 600, "test": 600}
_SEED = 4545
_ATTEMPTS = 30  # random expressions of the same numbers

# (expression, value, precedence of its last operator): 1 for + and -, 2 for *
# and /, 3 for a number.
_Term = tuple[str, int, int]


def sums(numbers: Sequence[int]) -> dict[int, str]:
  """An expression for each target that can be reached with + and - only."""
  found: dict[int, str] = {}
  for signs in itertools.product("+-", repeat=len(numbers)):
    signed = sorted(zip(signs, numbers, strict=True))  # those with + come first
    value = sum(n if sign == "+" else -n for sign, n in signed)
    if "+" in signs and value in countdown_data.TARGETS:
      text = "".join(f"{sign}{n}" for sign, n in signed)
      found.setdefault(value, text.removeprefix("+"))
  return found


@functools.cache
def _splits(count: int) -> dict[str, list[computed.Row]]:
  """All splits, cut out of one stream of problems with `count` numbers."""
  words = _stream(np.random.PCG64([_SEED, count]))
  known: set[tuple[int, ...]] = set()
  splits: dict[str, list[computed.Row]] = {}
  for split, size in PER_DIFFICULTY.items():
    rows = splits[split] = []
    for difficulty in countdown_data.DIFFICULTIES:
      wanted = len(rows) + size
      while len(rows) < wanted:
        numbers = tuple(1 + next(words) % 99 for _ in range(count))
        if (key := tuple(sorted(numbers))) in known:
          continue
        known.add(key)
        found = (_easy if difficulty == 1 else _hard)(words, numbers)
        if found is not None:
          target, solution = found
          rows.append({"puzzle": countdown.problem(numbers, target),
                       "solution": solution, "difficulty": difficulty})
  return splits


def _stream(words: np.random.PCG64) -> Iterator[int]:
  while True:
    yield from words.random_raw(4096).tolist()


def _easy(words: Iterator[int], numbers: Sequence[int]
          ) -> tuple[int, str] | None:
  found = sums(numbers)
  if not found:
    return None
  target = list(found)[next(words) % len(found)]
  return target, found[target]


def _hard(words: Iterator[int], numbers: Sequence[int]
          ) -> tuple[int, str] | None:
  easy = sums(numbers)
  for _ in range(_ATTEMPTS):
    text, value, _ = _expression(words, numbers)
    if value in countdown_data.TARGETS and value not in easy:
      return value, text
  return None


def _expression(words: Iterator[int], numbers: Sequence[int]) -> _Term:
  """Joins two random terms until one is left, which has all the numbers."""
  terms: list[_Term] = [(str(n), n, 3) for n in numbers]
  while len(terms) > 1:
    a = terms.pop(next(words) % len(terms))
    b = terms.pop(next(words) % len(terms))
    if a[1] < b[1]:
      a, b = b, a
    symbol = "+-*/"[next(words) % 4]
    if (symbol == "-" and a[1] == b[1]) or (symbol == "/" and a[1] % b[1]):
      symbol = "+"  # the step would not give a positive integer
    terms.append(_join(symbol, a, b))
  return terms[0]


def _join(symbol: str, a: _Term, b: _Term) -> _Term:
  """`a symbol b`, with no more parentheses than it needs."""
  value = {"+": a[1] + b[1], "-": a[1] - b[1], "*": a[1] * b[1],
           "/": a[1] // b[1]}[symbol]
  binding = 1 if symbol in "+-" else 2
  left = f"({a[0]})" if a[2] < binding else a[0]
  # Operators of equal precedence associate to the left.
  tight = binding + (symbol in "-/")
  right = f"({b[0]})" if b[2] < tight else b[0]
  return f"{left}{symbol}{right}", value, binding


COUNTDOWN4 = computed.Puzzles(
  name="countdown4",
  version="1.0.0",
  description="Countdown with four numbers from 1 to 99.",
  difficulties=countdown_data.DIFFICULTIES,
  generate=lambda split: _splits(4)[split],
  example=countdown_data.with_numbers,
  sha256={
    "train": "ac124ea592fbf449633d51968c4836b6"
             "aced86522153c640f898321f39239fb1",
    "validation": "76461b1544807a7cb6790451f0976757"
                  "c9550d979da83d42eb1c70e72358804b",
    "test": "bacf271db07b470dc75383392fa537d3"
            "9d3fed2ad6518860f1b56076850db7e6",
  })
COUNTDOWN5 = computed.Puzzles(
  name="countdown5",
  version="1.0.0",
  description="Countdown with five numbers from 1 to 99.",
  difficulties=countdown_data.DIFFICULTIES,
  generate=lambda split: _splits(5)[split],
  example=countdown_data.with_numbers,
  sha256={
    "train": "c1f01ef778725f7970cb782945b7abf6"
             "58618e50497077a0f5f7c17d46e5fc28",
    "validation": "e14a5c841254fb7d3e077b81e28b0f8f"
                  "9435587fcfc891bca2812dedd2ec24be",
    "test": "24b7d79bd660e626d93d40b0b8037887"
            "eb7e50f199a85d8beb71a59966e3246e",
  })
