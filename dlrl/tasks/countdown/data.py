"""Countdown with three numbers, as TFDS datasets made on the spot.

Two variants: numbers from 1 to 9, where every problem there is appears with its
numbers in every order, for the tiny models; and numbers from 1 to 99, drawn at
random. Targets go from 1 to 99. Train and test share no problem, whatever the
order of its numbers; of the greater numbers there is a validation split, too.
A problem has difficulty 1 if + and - are enough, as for nine tenths of the
published test set, and 2 if it needs * or /. Only raw PCG64 words are used,
whose stream numpy promises to keep.
"""

import functools
import itertools
import types
from collections.abc import Container
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import tensorflow_datasets as tfds

from dlrl import strict
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.datasets import checked
from dlrl.tasks.datasets import computed

DIFFICULTIES = (1, 2)
TARGETS = range(1, 100)
TESTS = 5  # one of so many problems
_SEED = 2323
_DRAWN = 15000  # triples of greater numbers, each with a target
_VALIDATION = 3000  # others

_PLAIN, _LEFT, _RIGHT = _SHAPES = (
  "{}{}{}{}{}", "({}{}{}){}{}", "{}{}({}{}{})")
Ratio = tuple[int, int]
Numbers = tuple[int, ...]
T = TypeVar("T")


class CountdownDigits(computed.Puzzles):
  """All problems of three numbers from 1 to 9, in all orders."""

  VERSION = tfds.core.Version("1.0.0")
  DESCRIPTION = "Countdown with three numbers from 1 to 9."
  SHA256 = types.MappingProxyType({
    "train": "d7feb6cc6e6fda2304734d4cc27e357c"
             "ff8bb8e44e177e3569e656c7a3f88ff8",
    "test": "afcf8247243237e04bf7b243b89aa4af"
            "f28039307c180851ba001523b53408b2",
  })

  def rows(self, split: str) -> list[computed.Row]:
    """The problems' targets have two digits, so that all prompts are equal."""
    triples = itertools.combinations_with_replacement(range(1, 10), 3)
    problems = [(numbers, target) for numbers in triples
                for target in solutions(numbers) if target in TARGETS]
    return sorted(
      (_row(order, target, width=2)
       for numbers, target in _part(problems, split)
       for order in dict.fromkeys(itertools.permutations(numbers))),
      key=computed.rank)


class Countdown3(computed.Puzzles):
  """Problems of three numbers from 1 to 99, a third of difficulty 2."""

  VERSION = tfds.core.Version("1.1.0")
  DESCRIPTION = "Countdown with three numbers from 1 to 99."
  SHA256 = types.MappingProxyType({
    "train": "b02dba48bc575fc7735cffef7b87f123"
             "3dc451b963a6c15334d8aca2128f3571",
    "test": "af5db508e768f5506686e084742317d3"
            "04605e3365fe8cf91ef1f02fbde779c6",
    "validation": "fb83926349118eef800f80ac346e8e22"
                  "96827e5dbd958eeb02aa76ccff228770",
  })

  def rows(self, split: str) -> list[computed.Row]:
    """A triple has one problem, its numbers in the order drawn."""
    problems = (_more() if split == "validation"
                else _part(_drawn(), split))
    return sorted(problems, key=computed.rank)


@functools.lru_cache(maxsize=1000)
def solutions(numbers: tuple[int, ...]) -> dict[int, str]:
  """A solution for each positive integer that the numbers can reach.

  One without * and /, if there is one; of these the one with the fewest
  parentheses, then that with its numbers nearest to their order.
  """
  found: dict[int, str] = {}
  for shape, parts, value in _expressions(numbers):
    if value is None or value[0] % value[1]:
      continue
    whole = value[0] // value[1]
    if whole > 0 and whole not in found:
      found[whole] = shape.format(*parts)
  return found


def load(builder: type[computed.Puzzles], data_dir: str, split: str,
         difficulty: tuple[int, int], *, field: str = "difficulty"
         ) -> Sequence[computed.Row]:
  """The split's problems of some difficulty, prepared first if necessary.

  Args:
    builder: of the dataset.
    data_dir: of TFDS; `~` is expanded.
    split: `train`, `validation` or `test`; of digits there is no validation:
      train and test are all the problems there are.
    difficulty: the least and the greatest.
    field: the config field that `difficulty` came from, for the message.

  Returns:
    Rows `{"numbers", "target", "solution", "difficulty", "index"}`, ordered by
    difficulty; the index identifies a row in its split.

  Raises:
    strict.ConfigError: the directory cannot be written or holds something else,
      or no problem has that difficulty, or there is no such split.
  """
  strict.require(
    split in builder.SHA256, "eval.split", split,
    f"{builder.__name__} has none; choose from {', '.join(builder.SHA256)}")
  rows = []
  for row in computed.numbered(builder, data_dir, split):
    numbers, target = countdown.problem_of(row.pop("puzzle"))
    rows.append({"numbers": numbers, "target": target, **row})
  return checked.select(rows, difficulty, DIFFICULTIES, field)


def _expressions(
  numbers: Sequence[int]
) -> Iterator[tuple[str, tuple[int | str, ...], Ratio | None]]:
  """(shape, its parts, value) of three numbers, the preferred ones first."""
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
  """Of (numerator, denominator); None: division by 0. Faster than Fraction."""
  if x is None or y is None or (symbol == "/" and y[0] == 0):
    return None
  (a, b), (c, d) = x, y
  if symbol == "*":
    return a * c, b * d
  if symbol == "/":
    return a * d, b * c
  return a * d + (c * b if symbol == "+" else -c * b), b * d


def difficulty(solution: str) -> int:
  """Of a problem with this solution: 2 if it multiplies or divides."""
  return 1 + any(c in "*/" for c in solution)


def _row(order: tuple[int, ...], target: int, width: int = 1) -> computed.Row:
  solution = solutions(order)[target]
  return {"puzzle": countdown.problem(order, target, width=width),
          "solution": solution, "difficulty": difficulty(solution)}


@functools.cache
def _drawn() -> list[computed.Row]:
  """Problems of random triples, as often of difficulty 2 as there are some."""
  words = np.random.PCG64(_SEED)
  return _problems(words, _triples(words, _DRAWN, {}))


def _more() -> list[computed.Row]:
  """As `_drawn`, of other triples."""
  words = np.random.PCG64([_SEED, 1])
  known = {tuple(sorted(countdown.problem_of(row["puzzle"])[0]))
           for row in _drawn()}
  return _problems(words, _triples(words, _VALIDATION, known))


def _triples(words: np.random.PCG64, count: int, known: Container[Numbers]
             ) -> list[Numbers]:
  """Distinct triples in the order drawn, but for those known when sorted."""
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


def _part(problems: Sequence[T], split: str) -> list[T]:
  """Every problem is in one of the splits, by a fixed shuffle."""
  words = np.random.PCG64([_SEED, len(problems)]).random_raw(len(problems))
  order = np.argsort(words)
  tests = len(problems) // TESTS
  chosen = {"test": order[:tests], "train": order[tests:]}[split]
  return [problems[i] for i in chosen]
