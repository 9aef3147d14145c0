"""A number between two others, asked in digits and answered in words, computed.

    between 42 and 51    forty-six

The two are from 1 to 99 and 4 to 60 apart, the smaller one first; neither is an
answer. The solution is one of all that are between them, each as likely. The
difficulty is

    1  they are 20 or more apart
    2  they are 10 to 19 apart
    3  they are less than 10 apart

Splits share no question. They are cut, and solutions drawn, by raw PCG64 words,
a stream that NumPy promises to keep.
"""

import itertools
from collections.abc import Iterator

import numpy as np

from dlrl.tasks.datasets import computed
from dlrl.tasks.number_between import words

DIFFICULTIES = (1, 3)
# Fifths: the first is for validation, the next for the test.
_PARTS = {"validation": (0, 1), "test": (1, 2), "train": (2, 5)}
_SEED = 9191


def difficulty(low: int, high: int) -> int:
  """The difficulty of a number between `low` and `high`."""
  apart = high - low
  return 1 if apart >= 20 else 2 if apart >= 10 else 3


def _rows(split: str) -> Iterator[computed.Row]:
  pairs = [(low, high) for low, high in itertools.combinations(
    range(1, 100), 2) if 4 <= high - low <= 60]
  ranks, draws = np.random.PCG64(_SEED).random_raw((2, len(pairs)))
  order = np.argsort(ranks)
  start, end = (len(pairs) * part // 5 for part in _PARTS[split])
  for i in order[start:end]:
    low, high = pairs[i]
    answer = low + 1 + int(draws[i]) % (high - low - 1)
    yield {"puzzle": f"between {low} and {high}",
           "solution": words.of(answer), "difficulty": difficulty(low, high)}


BETWEEN = computed.Puzzles(
  name="number_between",
  version="1.0.0",
  description="A number between two others, as English words.",
  difficulties=DIFFICULTIES,
  generate=_rows,
  sha256={
    "train": "430381679e02a355910d6755a65da899"
             "3321bc1720d31ded6a90d6b6b16ea67c",
    "validation": "9a50a25bd5b14c5142b6747e9e6b2069"
             "1c3a275c1ad77ce65d69cd9804cbdb5a",
    "test": "867a7f8cfb45962364ea273d9a368c61"
             "0157c88c8cc51c9320dab0d57a2b59b6",
  })
