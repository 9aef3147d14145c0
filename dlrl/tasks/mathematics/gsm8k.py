r"""GSM8K: word problems whose answer is one number.

A completion states its answer between answer tags, in `\boxed{}`, on a last
line after `####` or after "The answer is" (`answers.stated`); the last number
of that statement is compared, exactly, with the gold. A number that stands
anywhere else in the completion is none. The column `answer` is the public
file's, a rationale and then `#### N`, or the number alone. Rewards have TRL's
signature.
"""

from collections.abc import Sequence

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib
from dlrl.tasks.mathematics import exact_numbers


def gold(answer: str) -> exact_numbers.Number:
  """The number of a gold answer.

  Raises:
    ValueError: it is not a number, or text that ends with `#### number`.
  """
  number = exact_numbers.whole(answer.rpartition("####")[2])
  if number is None:
    raise ValueError(
      f"{answer[-80:]!r} is no gold answer: a number, alone or after '####'")
  return number


def stated(completion: str) -> exact_numbers.Number | None:
  """The number that a completion states as its answer; None: no number."""
  answer = answers.stated(completion)
  return None if answer is None else exact_numbers.last(answer)


def answer(row: task_lib.Example, completion: str) -> str | None:
  """The number it states, written in one way, for votes."""
  del row
  number = stated(completion)
  return None if number is None else str(number.value)


def correct(answer: str, completion: str) -> bool:
  """Whether the completion states the gold answer's number.

  Raises:
    ValueError: as `gold`; no completion raises.
  """
  right, number = gold(answer), stated(completion)
  return number is not None and exact_numbers.equal(right, number)


def correct_reward(prompts: Sequence[object], completions: Sequence[str], *,
                   answer: Sequence[str], **columns: object) -> list[float]:
  """1 for the right number, stated as the answer, and 0 for everything else.

  Raises:
    ValueError: a gold answer is no number, or the lengths differ. No completion
      raises.
  """
  del columns
  return [float(correct(right, completion)) for _, right, completion in zip(
    prompts, answer, completions, strict=True)]


def format_reward(prompts: Sequence[object], completions: Sequence[str],
                  **columns: object) -> list[float]:
  """1 for any number, stated as the answer, and 0 for everything else.

  Raises:
    ValueError: the lengths differ.
  """
  del columns
  return [float(stated(completion) is not None)
          for _, completion in zip(prompts, completions, strict=True)]


def metrics(prompts: Sequence[object], completions: Sequence[str], *,
            answer: Sequence[str], **columns: object
            ) -> dict[str, list[float]]:
  """`solved` and `format`, 0 or 1: the two rewards.

  Raises:
    ValueError: as `correct_reward`.
  """
  del columns
  return {"solved": correct_reward(prompts, completions, answer=answer),
          "format": format_reward(prompts, completions)}
