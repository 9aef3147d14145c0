"""Sums in words: whether a completion names the right number.

The answer that a completion states (`answers.final`) has to be the number's
name, `forty-two`, letter by letter. Rewards read the column `solution`.
"""

from collections.abc import Sequence

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib
from dlrl.tasks.arithmetic import words


def solved_reward(prompts: Sequence[task_lib.Text], completions: Sequence[str],
                  *, solution: Sequence[str], **columns: object
                  ) -> list[float]:
  """1 for the right number and 0 for everything else.

  Raises:
    ValueError: the columns differ in length. No completion raises.
  """
  del prompts, columns
  return [float(answers.final(completion) == right)
          for completion, right in zip(completions, solution, strict=True)]


def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
            solution: Sequence[str], **columns: object
            ) -> dict[str, list[float]]:
  """`solved` and `format` of every completion, 0 or 1.

  `format` is 1 if the answer is the name of any number from 0 to 99.

  Raises:
    ValueError: see `solved_reward`.
  """
  return {
    "solved": solved_reward(prompts, completions, solution=solution, **columns),
    "format": [float(answers.final(completion) in words.ALL)
               for completion in completions]}
