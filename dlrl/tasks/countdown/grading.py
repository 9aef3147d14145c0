"""Countdown: an expression of given numbers that has a given value.

A row has the columns `numbers` and `target`. The answer that a completion
states (`answers.final`) has to be one expression, `30-100+93`: integers,
+ - * / and parentheses, with every number used exactly as often as it is given.
It is read by the tokenizer and parser below and valued in fractions. What
published graders let pass is refused: powers, floor division, decimals, signs
and digits glued together (`//` and `**` are two operators in a row; `1.2` is no
token). Rewards never read the solution.
"""

import collections
import operator
import re
from collections.abc import Sequence
from fractions import Fraction

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib

# ASCII digits, no leading zero: other scripts' digits pass str.isdigit and
# int(). A longer number or text cannot be an answer, and need not be read.
_TOKEN = re.compile(r"(0|[1-9][0-9]{0,8})|([-+*/()])| ")
_LONGEST = 200  # characters
_PROBLEM = re.compile(r"([1-9][0-9]{0,8}(?:,[1-9][0-9]{0,8})+)=([0-9]{1,9})")

_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2}
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul,
              "/": operator.truediv}


def problem(numbers: Sequence[int], target: int, *, width: int = 1) -> str:
  """A problem in short, `30,100,93=23`: the numbers in order, and the target.

  The target has at least `width` digits.
  """
  return f"{','.join(map(str, numbers))}={target:0{width}}"


def problem_of(text: str) -> tuple[list[int], int]:
  """`(numbers, target)`: the inverse of `problem`.

  Raises:
    ValueError: it is no problem.
  """
  match = _PROBLEM.fullmatch(text)
  if match is None:
    raise ValueError(
      f"{text!r} is no problem: numbers, then the target, as '3,5,2=10'")
  return list(map(int, match[1].split(","))), int(match[2])


def template(row: task_lib.Example) -> list[str | int]:
  """What is known of any answer: how long it can be; then it has ended."""
  numbers = row["numbers"]
  digits = sum(len(str(number)) for number in numbers)
  operators, pairs = len(numbers) - 1, len(numbers) - 2
  return [digits + operators + 2 * pairs]


def tokens(expression: str) -> list[str] | None:
  """Numbers, operators and parentheses in order; None: it has other things."""
  if len(expression) > _LONGEST:
    return None
  found, end = [], 0
  while end < len(expression):
    match = _TOKEN.match(expression, end)
    # Two numbers side by side, "1 2" or "0" before "12", have no operator
    # between them: the parser refuses them.
    if match is None:
      return None
    if match[0] != " ":
      found.append(match[0])
    end = match.end()
  return found


def value(parts: Sequence[str]) -> Fraction | None:
  """The value of an expression's tokens; None: it is none, or divides by 0.

  Operators bind as in arithmetic, equal ones to the left. There is no sign:
  every operator has an operand on both sides.
  """
  operands: list[Fraction] = []
  waiting: list[str] = []
  operand_next = True

  def reduce() -> bool:
    right, left = operands.pop(), operands.pop()
    symbol = waiting.pop()
    if symbol == "/" and right == 0:
      return False
    operands.append(_OPERATORS[symbol](left, right))
    return True

  for part in parts:
    if operand_next != (part.isdigit() or part == "("):
      return None
    if part.isdigit():
      operands.append(Fraction(int(part)))
      operand_next = False
    elif part == "(":
      waiting.append(part)
    else:  # an operator, or ")", which binds less than any
      while waiting and waiting[-1] != "(" and (
          _BINDING[waiting[-1]] >= _BINDING.get(part, 0)):
        if not reduce():
          return None
      if part != ")":
        waiting.append(part)
        operand_next = True
      elif waiting:
        waiting.pop()
      else:
        return None
  while waiting and not operand_next:
    if waiting[-1] == "(" or not reduce():
      return None
  return None if operand_next else operands[0]


def numbers_used(numbers: Sequence[int], parts: Sequence[str]) -> bool:
  """Whether the tokens hold every given number exactly as often as given."""
  used = collections.Counter(int(part) for part in parts if part.isdigit())
  return used == collections.Counter(numbers)


def well_formed(numbers: Sequence[int], answer: str) -> bool:
  """Whether it is an expression of exactly these numbers, of any value."""
  parts = tokens(answer)
  return (parts is not None and numbers_used(numbers, parts)
          and value(parts) is not None)


def solved(numbers: Sequence[int], target: int, answer: str) -> bool:
  """Whether the answer is an expression of the numbers with that value."""
  parts = tokens(answer)
  # Numbers first: then the value is of a few operands, whatever the text.
  return (parts is not None and numbers_used(numbers, parts)
          and value(parts) == target)


def solved_reward(prompts: Sequence[task_lib.Text], completions: Sequence[str],
                  *, numbers: Sequence[Sequence[int]], target: Sequence[int],
                  **columns: object) -> list[float]:
  """1 for a solved problem and 0 for everything else.

  Raises:
    ValueError: the lengths differ. No completion raises.
  """
  del prompts, columns
  return [float(solved(given, wanted, answers.final(completion)))
          for given, wanted, completion in zip(
            numbers, target, completions, strict=True)]


def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
            numbers: Sequence[Sequence[int]], target: Sequence[int],
            difficulty: Sequence[int], **columns: object
            ) -> dict[str, list[float]]:
  """Of every completion, 0 or 1.

  `solved`; `format`: whether the answer is an expression of the numbers; and of
  the problem, not the completion, `easy`: whether + and - alone can solve it,
  which a policy that knows no other operator can reach.

  Raises:
    ValueError: as `solved_reward`.
  """
  return {
    "solved": solved_reward(
      prompts, completions, numbers=numbers, target=target, **columns),
    "format": [float(well_formed(given, answers.final(completion)))
               for given, completion in zip(
                 numbers, completions, strict=True)],
    "easy": [float(d == 1) for d in difficulty]}
