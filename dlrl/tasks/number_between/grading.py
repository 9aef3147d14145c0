"""A number between two others: whether a completion names one.

The answer that a completion states (`answers.final`) has to be the number's
name, `forty-two`, letter by letter. Rewards read the column `puzzle`, and never
the solution, which is one of several.
"""

from collections.abc import Sequence

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib
from dlrl.tasks.number_between import words


def solved_reward(prompts: Sequence[task_lib.Text], completions: Sequence[str],
                  *, puzzle: Sequence[str], **columns: object) -> list[float]:
  """1 for a number between the two of `puzzle` and 0 for everything else.

  Raises:
    ValueError: the columns differ in length, or a puzzle does not have the form
      `between 42 and 51`. No completion raises.
  """
  del prompts, columns
  rewards = []
  for completion, text in zip(completions, puzzle, strict=True):
    low, high = _ends(text)
    number = words.VALUES.get(answers.final(completion))
    rewards.append(float(number is not None and low < number < high))
  return rewards


def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
            puzzle: Sequence[str], **columns: object
            ) -> dict[str, list[float]]:
  """`solved` and `format` of every completion, 0 or 1.

  `format` is 1 if the answer is the name of any number from 0 to 99.

  Raises:
    ValueError: see `solved_reward`.
  """
  return {
    "solved": solved_reward(prompts, completions, puzzle=puzzle, **columns),
    "format": [float(answers.final(completion) in words.VALUES)
               for completion in completions]}


def _ends(puzzle: str) -> tuple[int, int]:
  """The two numbers of a puzzle."""
  match puzzle.split(" "):
    case ["between", low, "and", high]:
      return int(low), int(high)
  raise ValueError(f"puzzle = {puzzle!r}: must be like 'between 42 and 51'")
