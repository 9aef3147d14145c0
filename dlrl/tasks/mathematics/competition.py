r"""MATH: competition problems whose answer is an expression in LaTeX.

A completion states its answer between answer tags, in `\boxed{}`, on a last
line after `####` or after "The answer is" (`answers.stated`). A bare "3" is not
an answer. The first of these rules that applies decides:

1. The answer equals the gold after normalisation (`normal`): right.
2. The gold is a number, with or without unit, percent or degree sign: right if
   the answer is the same number, as an exact fraction. An answer that is not
   worked out, `3 \cdot 6` or `2^{10}`, is wrong.
3. The gold is words, or a numeral with its base: right if the answer has the
   same words, or the same digits and no other base.
4. The answer is an equation and the gold is not, or their brackets differ (a
   set for a pair): wrong.
5. math-verify decides, in another process and within limits (`verify_pool`).

The column `answer` is the gold: LaTeX, or a solution whose last box holds it.
Rewards have TRL's signature.
"""

import atexit
import functools
import os
import re
from collections.abc import Sequence

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib
from dlrl.tasks.mathematics import exact_numbers
from dlrl.tasks.mathematics import verify_pool

_MAX_CHARACTERS = 500  # of an answer; the longest gold has about 100

_WORDS = re.compile(
  r"\\(?:text|mathrm|mbox|textbf|mathbf|textrm) *\{([^{}]*)\}")
_MARKUP = re.compile(r"\\[()\[\]]|\\?\$|\\displaystyle(?![A-Za-z])|\\!\s?")
# `x=`, `f(x)=`, `\theta =`, `x \in`: the name of the value that follows.
_NAME = re.compile(r"([A-Za-z(\\][A-Za-z(){}\\_,' ]{0,40}?[0-9]?[})]*)\s*"
                   r"(?:=|\\in(?![A-Za-z]))\s*")
_EQUATION = re.compile(r"(?<![<>!])=")
# The order matters: spaces between digits are marked before all others go.
_REWRITES = tuple((re.compile(pattern), with_) for pattern, with_ in (
    (r"\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    (r"\\(?:left|right)(?![A-Za-z])", ""),
    (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
    (r"\\([lgn])eq(?![A-Za-z])", r"\\\1e"),
    (r"\^ *(?:\{ *\\circ *\}|\\circ(?![A-Za-z]))|\\degree(?![A-Za-z])", ""),
    (r"\\%", "%"),
    (r"(?<=[0-9])(?:\{,\}|,)(?=[0-9]{3}(?![0-9]))", ""),
    (r"\\(frac|sqrt) *([0-9a-zA-Z])", r"\\\1{\2}"),
    (r"(\\frac *\{[^{}]*\}) *([0-9a-zA-Z])", r"\1{\2}"),
    (r"(?<=[\^_])\{([0-9a-zA-Z])\}", r"\1"),
    (r"(?<=[0-9])\s+(?=[0-9])", "#"),  # "1 2" must not become "12"
    (r"\s+", ""),
))
_BASED = re.compile(r"([0-9][0-9A-F]*)_\{?([0-9]+)\}?")
_LIST = re.compile(r"(\\?[(\[{]).*,.*?(\\?[)\]}])", re.DOTALL)


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


def normal(text: str) -> str:
  """Returns the text with the same spelling for what LaTeX spells differently.
  """
  text = _WORDS.sub(r" \1 ", _MARKUP.sub("", text))
  for pattern, replacement in _REWRITES:
    text = pattern.sub(replacement, text)
  return text.removesuffix(".")


def answer(example: task_lib.Example, completion: str) -> str | None:
  """Returns the stated answer, normalised, for majority votes."""
  del example
  return normal(answers.stated(completion) or "") or None


def decided(right: str, answer: str) -> bool | None:
  """Applies rules 1 to 4; returns None if rule 5 has to decide.

  Args:
    right: a gold answer from `gold`.
    answer: what the completion states; any text, none raises.
  """
  if not answer or len(answer) > _MAX_CHARACTERS:
    return False
  right_name, right = _named(right)
  name, answer = _named(answer)
  if name and right_name and name != right_name:
    return False
  expected, found = normal(right), normal(answer)
  if found == expected:
    return bool(found)
  number = exact_numbers.whole(right)
  if number is not None:
    answered = exact_numbers.whole(answer)
    return answered is not None and exact_numbers.equal(number, answered)
  if _WORDS.search(right) and expected.strip("()").isalpha():
    return found.strip("()").casefold() == expected.strip("()").casefold()
  if based := _BASED.fullmatch(expected):
    return found == based[1] or _groups(_BASED, found) == based.groups()
  if _EQUATION.search(answer) and not _EQUATION.search(right):
    return False
  lists = {_groups(_LIST, expected), _groups(_LIST, found)}
  return False if len(lists - {None}) == 2 else None


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
  verdicts = {pair: decided(*pair) for pair in pairs}
  open_pairs = [pair for pair, verdict in verdicts.items() if verdict is None]
  if open_pairs:
    bare = [(_named(right)[1], _named(found)[1]) for right, found in open_pairs]
    verdicts.update(zip(open_pairs, _pool().verify(bare), strict=True))
  return [float(bool(verdicts[pair])) for pair in pairs]


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


def _named(text: str) -> tuple[str, str]:
  """Splits `x = 5` into the name, empty if there is none, and the value."""
  text = _MARKUP.sub("", text).strip().removesuffix(".")
  match = _NAME.match(text)
  return ("", text) if match is None else (normal(match[1]), text[match.end():])


def _groups(pattern: re.Pattern[str], text: str) -> tuple[str, ...] | None:
  match = pattern.fullmatch(text)
  return None if match is None else match.groups()


@functools.cache
def _pool() -> verify_pool.VerifyPool:
  pool = verify_pool.VerifyPool(verify_pool.WorkerLimits(
    processes=min(8, os.cpu_count() or 1)))
  atexit.register(pool.close)
  return pool
