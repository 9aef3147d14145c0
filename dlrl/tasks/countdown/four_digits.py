"""Countdown problems with four numbers from 1 to 9, for + and -, computed.

All problems that there are, in every order of their numbers: many, with short
prompts, for models that learn them from nothing. Targets go from 1 to 99. As of
three digits, splits share no problem, whatever the order of its numbers, and
there is no validation split.
"""

import itertools
from collections.abc import Sequence

from dlrl.tasks.countdown import data as countdown_data
from dlrl.tasks.countdown import drawn_data
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.datasets import computed

DIFFICULTIES = (1, 1)
_DIGITS = range(1, 10)


def solution(numbers: Sequence[int], target: int) -> str:
  """The numbers that are added, then the others, in the order given.

  The first fit is taken, of which the earliest numbers are added.

  Raises:
    StopIteration: + and - cannot reach the target.
  """
  signs = next(
    signs for signs in itertools.product((1, -1), repeat=len(numbers))
    if 1 in signs
    and sum(s * n for s, n in zip(signs, numbers, strict=True)) == target)
  # Stable: the order given stays.
  ordered = sorted(zip(signs, numbers, strict=True), key=lambda pair: -pair[0])
  return "".join(f"{'+' if sign > 0 else '-'}{number}"
                 for sign, number in ordered).removeprefix("+")


def _generate(split: str) -> list[computed.Row]:
  problems = [
    (numbers, target)
    for numbers in itertools.combinations_with_replacement(_DIGITS, 4)
    for target in sorted(drawn_data.sums(numbers))]
  return [{"puzzle": countdown.problem(order, target, width=2),
           "solution": solution(order, target), "difficulty": 1}
          for numbers, target in countdown_data.part(problems, split)
          for order in dict.fromkeys(itertools.permutations(numbers))]


COUNTDOWN_DIGITS4 = computed.Puzzles(
  name="countdown_digits4",
  version="1.0.0",
  description="Countdown with four numbers from 1 to 9, by + and -.",
  difficulties=DIFFICULTIES,
  generate=_generate,
  example=countdown_data.with_numbers,
  sha256={
    "train": "7de0f8e338c460ce969a5e22c805fbdc"
             "7c402d44893a902c2bb75905f6940fb5",
    "test": "7a9e3b4c906df9e94520bb562edd248c"
            "1963e88630f31363a2bbbad95ef09716",
  })
