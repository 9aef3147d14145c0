r"""GSM8K: word problems whose answer is one number.

A completion states its answer between answer tags, in `\boxed{}`, on a last
line after `####` or after "The answer is" (`answers.stated`). The last number
of that statement must equal the gold exactly. Numbers elsewhere in the
completion do not count. The column `answer` is the one of the public file, a
rationale and then `#### N`, or only the number. Rewards have TRL's signature.
"""

from collections.abc import Sequence

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib
from dlrl.tasks.mathematics import exact_numbers


def gold(answer: str) -> exact_numbers.Number:
  """Returns the number of a gold answer.

  Raises:
    ValueError: the text is not a number and does not end with `#### number`.
  """
  number = exact_numbers.whole(answer.rpartition("####")[2])
  if number is None:
    raise ValueError(
      f"{answer[-80:]!r} is not a gold answer; it must be a number, or end "
      "with '#### number'")
  return number


def stated(completion: str) -> exact_numbers.Number | None:
  """Returns the number that a completion states as its answer, or None."""
  answer = answers.stated(completion)
  return None if answer is None else exact_numbers.last(answer)


def answer(example: task_lib.Example, completion: str) -> str | None:
  """Returns the stated number in one fixed spelling, for majority votes."""
  del example
  number = stated(completion)
  return None if number is None else str(number.value)


def correct(answer: str, completion: str) -> bool:
  """Whether the completion states the number of the gold `answer`.

  Raises:
    ValueError: same as `gold`. No completion raises.
  """
  right, number = gold(answer), stated(completion)
  return number is not None and exact_numbers.equal(right, number)


def correct_reward(prompts: Sequence[object], completions: Sequence[str], *,
                   answer: Sequence[str], **columns: object) -> list[float]:
  """1 if the completion states the gold answer's number, else 0.

  Raises:
    ValueError: a gold answer is not a number, or the lengths differ.
  """
  del columns
  return [float(correct(right, completion)) for _, right, completion in zip(
    prompts, answer, completions, strict=True)]


def format_reward(prompts: Sequence[object], completions: Sequence[str],
                  **columns: object) -> list[float]:
  """1 if the completion states a number, right or wrong, else 0.

  Raises:
    ValueError: the lengths differ.
  """
  del columns
  return [float(stated(completion) is not None)
          for _, completion in zip(prompts, completions, strict=True)]


def metrics(prompts: Sequence[object], completions: Sequence[str], *,
            answer: Sequence[str], **columns: object
            ) -> dict[str, list[float]]:
  """Returns the two rewards as `solved` and `format`.

  Raises:
    ValueError: same as `correct_reward`.
  """
  del columns
  return {"solved": correct_reward(prompts, completions, answer=answer),
          "format": format_reward(prompts, completions)}
