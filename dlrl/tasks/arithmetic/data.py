"""Sums of two numbers, asked in digits and answered in words, computed.

    47 plus 28    seventy-five

The numbers are positive, and the sum is below a hundred. Its difficulty is

    1  one of the numbers is below ten, or a multiple of ten
    2  neither is, and the ones add up to less than ten
    3  neither is, and the ones add up to ten or more: there is a carry

Splits share no pair of numbers, whatever their order. They are cut by raw PCG64
words, a stream that NumPy promises to keep.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from dlrl.tasks.arithmetic import words
from dlrl.tasks.datasets import computed

DIFFICULTIES = (1, 3)
# Fifths: the first is for validation, the next for the test.
_PARTS = {"validation": (0, 1), "test": (1, 2), "train": (2, 5)}
_SEED = 9191


def difficulty(a: int, b: int) -> int:
  """The difficulty of `a` plus `b`."""
  if any(number < 10 or number % 10 == 0 for number in (a, b)):
    return 1
  return 2 if a % 10 + b % 10 < 10 else 3


def _pairs(split: str) -> Iterator[tuple[int, int]]:
  """The split's pairs (a, b) with a <= b."""
  pairs = [(a, b) for a, b in itertools.combinations_with_replacement(
    range(1, 100), 2) if a + b < 100]
  order = np.argsort(np.random.PCG64(_SEED).random_raw(len(pairs)))
  low, high = (len(pairs) * part // 5 for part in _PARTS[split])
  return (pairs[i] for i in order[low:high])


def _rows(split: str) -> Iterator[computed.Row]:
  for pair in _pairs(split):
    for a, b in dict.fromkeys((pair, pair[::-1])):
      yield {"puzzle": f"{a} plus {b}",
             "solution": words.of(a + b), "difficulty": difficulty(a, b)}


SUMS = computed.Puzzles(
  name="sums_in_words",
  version="1.0.0",
  description="Sums below a hundred, as English words.",
  difficulties=DIFFICULTIES,
  generate=_rows,
  sha256={
    "train": "522204b16c92b0699e93edfe95628b4b"
             "8def22c903974855a69e7704d448e283",
    "validation": "df0d24169e2ef7dc09daea7b01362f1b"
             "b4104f93680fa7d54c973a11aa03d24e",
    "test": "0c28cec0ddf715a761217fcf5f0533b4"
             "f6896b6a789a68be1b16c34e9540917e",
  })
