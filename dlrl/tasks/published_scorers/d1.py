"""The scorers of d1's published evaluation (arXiv 2504.12216), digit by digit.

wd1 uses the same rules, and SPG all but one (`spg`), so these keep old tables
comparable. They are not sound: docs/graders.md lists each loophole and what our
own graders do instead. Every scorer has the signature

    (question, generation, ground_truth) -> (points, out of)

The score of a file is the sum of points divided by the sum of "out of". The
generation is raw, including its special tokens.
"""

import re
from collections.abc import Sequence

from dlrl.tasks.published_scorers import arithmetic
from dlrl.tasks.published_scorers import math_strings

_PUZZLE = re.compile(r"(?<![0-9])[0-4]{16}(?![0-9])")
_STOP = re.compile(r"<\|eot_id\|>|<\|endoftext\|>|</answer>")
_END = re.compile(r"<\|eot_id\|>|<\|endoftext\|>")
_FENCED_DIGITS = re.compile(r"```([\d\s]+)```")
_DIGITS_BEFORE_CLOSE = re.compile(r"(\d{16})\s*</answer>")
_DIGITS = re.compile(r"\b(\d{16})\b")

_BOX = re.compile(r"\\boxed\{([^}]*)\}")
_NUMBER = re.compile(r"-?\d+\.?\d*")

_TERM = re.compile(r"[0-9+\-*/() ]+")
_VALUE = re.compile(r"=[0-9. ]")
_ARITHMETIC = re.compile(r"[\d+\-*/().\s]+")


def puzzle(question: str) -> str:
  """The 16 digits of the puzzle in the question.

  Raises:
    ValueError: the question has no such puzzle.
  """
  found = _PUZZLE.search(question)
  if found is None:
    raise ValueError(
      f"no puzzle of 16 digits from 0 to 4 in question {question!r}")
  return found[0]


def sudoku(question: str, generation: str, ground_truth: str
           ) -> tuple[int, int]:
  """The blanks that are filled as in the stored solution, out of all blanks.

  Raises:
    ValueError: see `puzzle`.
  """
  given = puzzle(question)
  grid = "".join(_sudoku_answer(generation).split()).ljust(16, "0")
  blanks = [cell for cell in range(16) if given[cell] == "0"]
  return sum(grid[cell] == ground_truth[cell] for cell in blanks), len(blanks)


def countdown(question: str, generation: str, ground_truth: list
              ) -> tuple[int, int]:
  """1 of 1 if the expression has the numbers, and the target within 1e-5."""
  del question
  numbers, target = ground_truth
  box = math_strings.last_boxed(generation)
  expression = (math_strings.unboxed(box) if box is not None
                else first_tagged(generation) or generation)
  for command, symbol in ((r"\div", "/"), (r"\times", "*"), (r"\cdot", "*")):
    expression = expression.replace(command, symbol)
  with_value = _first_sum(expression)
  if with_value is not None:
    expression = with_value
  return int(reaches(expression, numbers, target)), 1


def reaches(expression: str, numbers: Sequence[int], target: int) -> bool:
  """Whether its digits are the numbers, and its Python value is the target."""
  used = re.findall(r"\d+", expression)
  if len(used) != len(numbers) or any(len(digits) > 300 for digits in used):
    return False
  if (sorted(map(int, used)) != sorted(numbers)
      or not _ARITHMETIC.fullmatch(expression)):
    return False
  value = arithmetic.value(expression)
  return value is not None and abs(value - target) < 1e-5


def gsm8k(question: str, generation: str, ground_truth: float | None
          ) -> tuple[int, int]:
  """1 of 1 if the first box or the first answer tags have that number."""
  del question
  answer = gsm8k_answer(generation)
  return int(answer is not None and answer == ground_truth), 1


def math500(question: str, generation: str, ground_truth: str
            ) -> tuple[int, int]:
  """1 of 1 if the last box, or else the first answer, is the same string.

  A generation without any box is itself the answer.
  """
  del question
  box = math_strings.last_boxed(generation)
  answer = box and math_strings.unboxed(box)
  if not answer:
    answer = first_tagged(generation)
  return int(answer is not None
             and math_strings.equivalent(answer, ground_truth)), 1


def first_tagged(text: str) -> str | None:
  """The text between the first `<answer>` and the next `</answer>`."""
  _, opened, rest = text.partition("<answer>")
  content, closed, _ = rest.partition("</answer>")
  return content.strip() if opened and closed else None


def _first_sum(text: str) -> str | None:
  """The first term that is followed by an equals sign and a number."""
  for term in _TERM.finditer(text):
    if _VALUE.match(text, term.end()):
      return term[0].strip()
  return None


def gsm8k_answer(text: str) -> float | None:
  """The number of the first box that has one, or of the first answer tags."""
  # A box ends at the first closing brace on the same line. Reading a line only
  # to its last brace avoids quadratic time for many boxes that never close.
  for line in text.split("\n"):
    for box in _BOX.finditer(line, 0, line.rfind("}") + 1):
      content = box[1].strip()
      if content.strip("."):
        found = number(content, first=True)
        if found is not None:
          return found
  tagged = first_tagged(text)
  return None if tagged is None else number(tagged, first=False)


def number(text: str, *, first: bool) -> float | None:
  """The text as a number, or else the first or the last number in it."""
  try:
    return float(text)
  except ValueError:
    found = _NUMBER.findall(text)
    return float(found[0 if first else -1]) if found else None


def _sudoku_answer(text: str) -> str:
  """The answer by the first of five rules that finds one."""
  start = text.find("<answer>")
  if start >= 0:
    start += len("<answer>")
    fenced = _FENCED_DIGITS.search(text, start)
    if fenced and fenced[1].strip():
      return fenced[1]
    stop = _STOP.search(text, start)
    if stop and text[start:stop.start()].strip():
      return text[start:stop.start()]
  _, closed, rest = text.partition("</answer>")
  after = _END.split(rest, maxsplit=1)[0]
  if closed and after.strip():
    return after
  found = _DIGITS_BEFORE_CLOSE.search(text) or _DIGITS.search(text)
  return found[1] if found else ""
