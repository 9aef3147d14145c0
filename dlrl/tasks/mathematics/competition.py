r"""MATH: competition problems whose answer is an expression in LaTeX.

A completion states its answer between answer tags, in `\boxed{}`, on a last
line after `####` or after "The answer is" (`answers.stated`). A bare "3" is not
an answer. Both are spelled alike first (`spelling`). Then:

1. A list, `1, 2` or `x = 1 \text{ or } x = 2`, must have as many entries as
   the gold, in any order. Several names, `x = 3, y = 4`, must have their
   values; without names the values must have the gold's order. One name does
   not matter, but it must not differ from the gold's.
2. Tuples, intervals and sets must have the gold's brackets and entries.
3. Units do not matter, other than percent (`units`).
4. The gold is a number: right if the answer is the same number, as an exact
   fraction. An answer that is not worked out (`3 \cdot 6`, `2^{10}`) is wrong.
5. The gold is words, a time, or a numeral with its base: right if the answer
   has the same words, the same time, or the same digits and no other base.
6. The answer is an equation and the gold is not: wrong.
7. math-verify decides, with exact arithmetic, in another process and within
   limits (`verify_pool`).

The column `answer` is the gold: LaTeX, or a solution whose last box holds it.
Rewards have TRL's signature.
"""

import atexit
import functools
import os
from collections.abc import Sequence

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib
from dlrl.tasks.mathematics import comparison
from dlrl.tasks.mathematics import questions
from dlrl.tasks.mathematics import spelling
from dlrl.tasks.mathematics import verify_pool

_MAX_CHARACTERS = 500  # of an answer; the longest gold has about 100


def gold(answer: str) -> str:
  r"""Returns the content of a solution's last box, or the text if it has none.

  Raises:
    ValueError: the gold answer is empty.
  """
  boxed = answers.boxed(answer)
  text = (answer if boxed is None else boxed).strip()
  if not text:
    raise ValueError(f"{answer[-80:]!r} holds no gold answer; write LaTeX, or "
                     r"a solution that ends in \boxed{...}")
  return text


def answer(example: task_lib.Example, completion: str) -> str | None:
  """Returns the stated answer, normalised, for majority votes."""
  del example
  text = answers.stated(completion) or ""
  return (spelling.normal(text) or None) if len(text) <= _MAX_CHARACTERS else (
    None)


def question(right: str, answer: str) -> questions.Question:
  """Applies rules 1 to 6; what is left is for math-verify (rule 7).

  Args:
    right: a gold answer from `gold`.
    answer: what the completion states; any text, none raises.
  """
  if not answer or len(answer) > _MAX_CHARACTERS:
    return False
  return comparison.question(spelling.spelled(right), spelling.spelled(answer))


def decided(right: str, answer: str) -> bool | None:
  """Whether the answer is right; None if math-verify has to decide."""
  found = question(right, answer)
  return found if isinstance(found, bool) else None


def correct_reward(prompts: Sequence[object], completions: Sequence[str], *,
                   answer: Sequence[str], **columns: object) -> list[float]:
  """1 if the completion states the gold answer, else 0.

  Raises:
    ValueError: a gold answer is empty, or the lengths differ. No completion
      raises.
    RuntimeError: math-verify's processes do not start.
  """
  del columns
  pairs = [(gold(right), answers.stated(completion) or "")
           for _, right, completion in zip(
             prompts, answer, completions, strict=True)]
  # Keyed by pair, because the completions of a group often share an answer.
  asked = {pair: question(*pair) for pair in pairs}
  verdicts = {pair: found for pair, found in asked.items()
              if isinstance(found, bool)}
  open_pairs = [pair for pair in asked if pair not in verdicts]
  if open_pairs:
    verdicts.update(zip(open_pairs, _pool().verify(
      [asked[pair] for pair in open_pairs]), strict=True))
  return [float(verdicts[pair]) for pair in pairs]


def format_reward(prompts: Sequence[object], completions: Sequence[str],
                  **columns: object) -> list[float]:
  """1 if the completion states an answer, right or wrong, else 0.

  Raises:
    ValueError: the lengths differ.
  """
  del columns
  return [float(bool(answers.stated(completion)))
          for _, completion in zip(prompts, completions, strict=True)]


def metrics(prompts: Sequence[object], completions: Sequence[str], *,
            answer: Sequence[str], **columns: object
            ) -> dict[str, list[float]]:
  """Returns the two rewards as `solved` and `format`.

  Raises:
    ValueError, RuntimeError: same as `correct_reward`.
  """
  del columns
  return {"solved": correct_reward(prompts, completions, answer=answer),
          "format": format_reward(prompts, completions)}


@functools.cache
def _pool() -> verify_pool.VerifyPool:
  pool = verify_pool.VerifyPool(verify_pool.WorkerLimits(
    processes=min(8, os.cpu_count() or 1)))
  atexit.register(pool.close)
  return pool
