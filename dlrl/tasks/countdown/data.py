"""Countdown problems with three numbers, computed, in two datasets.

`COUNTDOWN_DIGITS` has every problem with numbers from 1 to 9, in every order of
its numbers, for tiny models. `COUNTDOWN3` has numbers from 1 to 99 drawn at
random, one problem for each triple. Targets go from 1 to 99. Splits share no
problem, whatever the order of its numbers; only `COUNTDOWN3` has a validation
split, because train and test of `COUNTDOWN_DIGITS` are all problems there are.

A problem has difficulty 1 if + and - are enough, as for nine tenths of the
published test set, and 2 if it needs * or /; of `COUNTDOWN3` that is a third.
All random choices use raw PCG64 words, a stream that NumPy promises to keep.
"""

import functools
import itertools
from collections.abc import Container
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.datasets import computed

DIFFICULTIES = (1, 2)
TARGETS = range(1, 100)
TESTS = 5  # one in 5 problems is for testing
_SEED = 2323
_DRAWN = 15000  # triples of `COUNTDOWN3` for train and test
_VALIDATION = 3000  # other triples

_PLAIN, _LEFT, _RIGHT = _SHAPES = (
  "{}{}{}{}{}", "({}{}{}){}{}", "{}{}({}{}{})")
Ratio = tuple[int, int]
Numbers = tuple[int, ...]
T = TypeVar("T")


@functools.lru_cache(maxsize=1000)
def solutions(numbers: tuple[int, ...]) -> dict[int, str]:
  """A solution for each positive integer that three numbers can reach.

  Prefers a solution without * and /, then fewer parentheses, then numbers in
  the given order.
  """
  found: dict[int, str] = {}
  for shape, parts, value in _expressions(numbers):
    if value is None or value[0] % value[1]:
      continue
    whole = value[0] // value[1]
    if whole > 0 and whole not in found:
      found[whole] = shape.format(*parts)
  return found


def with_numbers(row: computed.Row) -> computed.Row:
  """`numbers` and `target`, read from the column `puzzle`, in its place."""
  numbers, target = countdown.problem_of(row["puzzle"])
  rest = {name: value for name, value in row.items() if name != "puzzle"}
  return {"numbers": numbers, "target": target, **rest}


def _expressions(
  numbers: Sequence[int]
) -> Iterator[tuple[str, tuple[int | str, ...], Ratio | None]]:
  """(shape, its parts, value) for three numbers, preferred ones first."""
  for operators, shapes in (("+-", _SHAPES[:1]), ("+-*/", _SHAPES)):
    for shape in shapes:
      for a, b, c in itertools.permutations(numbers):
        for p, q in itertools.product(operators, repeat=2):
          right = shape is _RIGHT or (
            shape is _PLAIN and p in "+-" and q in "*/")
          x, y, z = (a, 1), (b, 1), (c, 1)
          yield shape, (a, p, b, q, c), (
            _apply(p, x, _apply(q, y, z)) if right
            else _apply(q, _apply(p, x, y), z))


def _apply(symbol: str, x: Ratio | None, y: Ratio | None) -> Ratio | None:
  """`x symbol y` for (numerator, denominator); None for a division by 0.

  Not reduced, which is faster than `Fraction`.
  """
  if x is None or y is None or (symbol == "/" and y[0] == 0):
    return None
  (a, b), (c, d) = x, y
  if symbol == "*":
    return a * c, b * d
  if symbol == "/":
    return a * d, b * c
  return a * d + (c * b if symbol == "+" else -c * b), b * d


def difficulty(solution: str) -> int:
  """The difficulty of a problem with this solution."""
  return 1 + any(c in "*/" for c in solution)


def _row(order: tuple[int, ...], target: int, width: int = 1) -> computed.Row:
  solution = solutions(order)[target]
  return {"puzzle": countdown.problem(order, target, width=width),
          "solution": solution, "difficulty": difficulty(solution)}


@functools.cache
def _drawn() -> list[computed.Row]:
  """Problems of random triples, one for each triple, in the order drawn.

  For half of the triples difficulty 2 is wanted; those that no target of that
  difficulty fits are left out, so fewer than half have it.
  """
  words = np.random.PCG64(_SEED)
  return _problems(words, _triples(words, _DRAWN, {}))


def _more() -> list[computed.Row]:
  """Problems of triples that `_drawn` does not have, made in the same way."""
  words = np.random.PCG64([_SEED, 1])
  known = {tuple(sorted(countdown.problem_of(row["puzzle"])[0]))
           for row in _drawn()}
  return _problems(words, _triples(words, _VALIDATION, known))


def _triples(words: np.random.PCG64, count: int, known: Container[Numbers]
             ) -> list[Numbers]:
  """Distinct triples in the order drawn, none of which is `known` sorted."""
  orders: dict[Numbers, Numbers] = {}
  while len(orders) < count:
    order = tuple((1 + words.random_raw(3) % 99).tolist())
    if (key := tuple(sorted(order))) not in known:
      orders.setdefault(key, order)
  return list(orders.values())


def _problems(words: np.random.PCG64, triples: Sequence[Numbers]
              ) -> list[computed.Row]:
  rows = []
  for order in triples:
    found = solutions(order)
    wanted = 1 + int(words.random_raw()) % 2
    targets = [t for t in found
               if t in TARGETS and difficulty(found[t]) == wanted]
    if targets:
      pick = int(words.random_raw()) % len(targets)
      rows.append(_row(order, targets[pick]))
  return rows


def part(problems: Sequence[T], split: str) -> list[T]:
  """The split's part of a fixed shuffle of the problems."""
  words = np.random.PCG64([_SEED, len(problems)]).random_raw(len(problems))
  order = np.argsort(words)
  tests = len(problems) // TESTS
  chosen = {"test": order[:tests], "train": order[tests:]}[split]
  return [problems[i] for i in chosen]


def _digits(split: str) -> list[computed.Row]:
  """All problems of three numbers from 1 to 9, in all orders of the numbers."""
  triples = itertools.combinations_with_replacement(range(1, 10), 3)
  problems = [(numbers, target) for numbers in triples
              for target in solutions(numbers) if target in TARGETS]
  # Targets of two digits, so that all prompts have the same length.
  return [_row(order, target, width=2)
          for numbers, target in part(problems, split)
          for order in dict.fromkeys(itertools.permutations(numbers))]


COUNTDOWN_DIGITS = computed.Puzzles(
  name="countdown_digits",
  version="1.0.0",
  description="Countdown with three numbers from 1 to 9.",
  difficulties=DIFFICULTIES,
  generate=_digits,
  example=with_numbers,
  sha256={
    "train": "d7feb6cc6e6fda2304734d4cc27e357c"
             "ff8bb8e44e177e3569e656c7a3f88ff8",
    "test": "afcf8247243237e04bf7b243b89aa4af"
            "f28039307c180851ba001523b53408b2",
  })
COUNTDOWN3 = computed.Puzzles(
  name="countdown3",
  version="1.1.0",
  description="Countdown with three numbers from 1 to 99.",
  difficulties=DIFFICULTIES,
  generate=lambda split: (
    _more() if split == "validation" else part(_drawn(), split)),
  example=with_numbers,
  sha256={
    "train": "b02dba48bc575fc7735cffef7b87f123"
             "3dc451b963a6c15334d8aca2128f3571",
    "test": "af5db508e768f5506686e084742317d3"
            "04605e3365fe8cf91ef1f02fbde779c6",
    "validation": "fb83926349118eef800f80ac346e8e22"
                  "96827e5dbd958eeb02aa76ccff228770",
  })
