"""Countdown: an expression of given numbers that has a given value.

An example has the columns `numbers` and `target`. The answer that a completion
states (`answers.final`) has to be one expression, `30-100+93`: integers,
+ - * / and parentheses, with every number used exactly as often as it is given.
The tokenizer and parser below read it, and its value is an exact fraction. They
refuse what published graders accept: powers, floor division, decimals, signs
and digits glued together (`//` and `**` are two operators in a row; `1.2` is
not a token). Rewards never read the solution.
"""

import collections
import operator
import re
from collections.abc import Sequence
from fractions import Fraction

from dlrl.tasks import answers
from dlrl.tasks import task as task_lib

# Only ASCII digits without a leading zero: str.isdigit and int() would accept
# other scripts' digits. Longer numbers and texts cannot be an answer.
_TOKEN = re.compile(r"(0|[1-9][0-9]{0,8})|([-+*/()])|[ \t\r\n]")
_LONGEST = 200  # characters
_PROBLEM = re.compile(r"([1-9][0-9]{0,8}(?:,[1-9][0-9]{0,8})+)=([0-9]{1,9})")

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul,
              "/": operator.truediv}


def problem(numbers: Sequence[int], target: int, *, width: int = 1) -> str:
  """A problem in short form, `30,100,93=23`: numbers in order, then target.

  The target is padded with zeros to `width` digits.
  """
  return f"{','.join(map(str, numbers))}={target:0{width}}"


def problem_of(text: str) -> tuple[list[int], int]:
  """`(numbers, target)` of a problem in short form, the inverse of `problem`.

  Raises:
    ValueError: the text does not have that form.
  """
  match = _PROBLEM.fullmatch(text)
  if match is None:
    raise ValueError(
      f"problem = {text!r}: must be numbers and the target, like '3,5,2=10'")
  return list(map(int, match[1].split(","))), int(match[2])


def template(example: task_lib.Example) -> list[str | int]:
  """Only free tokens: as many as the longest answer has."""
  numbers = example["numbers"]
  digits = sum(len(str(number)) for number in numbers)
  operators, pairs = len(numbers) - 1, len(numbers) - 2
  return [digits + operators + 2 * pairs]


def tokens(expression: str) -> list[str] | None:
  """Numbers, operators and parentheses in order; None for anything else."""
  if len(expression) > _LONGEST:
    return None
  found, end = [], 0
  while end < len(expression):
    match = _TOKEN.match(expression, end)
    # Two numbers side by side, "1 2" or "012", are two tokens here; the parser
    # refuses them, because no operator is between them.
    if match is None:
      return None
    if not match[0].isspace():
      found.append(match[0])
    end = match.end()
  return found


def value(parts: Sequence[str]) -> Fraction | None:
  """The value of an expression's tokens; None if invalid or dividing by 0.

  Operators have the usual precedence and associate to the left. There are no
  signs: every operator has an operand on both sides.
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
    else:  # an operator, or ")", which has the lowest precedence
      while waiting and waiting[-1] != "(" and (
          _PRECEDENCE[waiting[-1]] >= _PRECEDENCE.get(part, 0)):
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
  """Whether the answer is an expression of exactly these numbers."""
  parts = tokens(answer)
  return (parts is not None and numbers_used(numbers, parts)
          and value(parts) is not None)


def solved(numbers: Sequence[int], target: int, answer: str) -> bool:
  """Whether the answer is an expression of exactly the numbers with that value.
  """
  parts = tokens(answer)
  # The numbers are checked first, so only a few operands are ever evaluated.
  return (parts is not None and numbers_used(numbers, parts)
          and value(parts) == target)


def solved_reward(prompts: Sequence[task_lib.Text], completions: Sequence[str],
                  *, numbers: Sequence[Sequence[int]], target: Sequence[int],
                  **columns: object) -> list[float]:
  """1 for a solved problem and 0 for everything else.

  Raises:
    ValueError: the columns differ in length. No completion raises.
  """
  del prompts, columns
  return [float(solved(given, wanted, answers.final(completion)))
          for given, wanted, completion in zip(
            numbers, target, completions, strict=True)]


def metrics(prompts: Sequence[task_lib.Text], completions: Sequence[str], *,
            numbers: Sequence[Sequence[int]], target: Sequence[int],
            difficulty: Sequence[int], **columns: object
            ) -> dict[str, list[float]]:
  """`solved`, `format` and `easy` of every completion, 0 or 1.

  `format` is 1 if the answer is an expression of the numbers. `easy` is 1 if
  the problem can be solved with + and - only. Its mean is the highest score of
  a policy that uses no other operator.

  Raises:
    ValueError: see `solved_reward`.
  """
  return {
    "solved": solved_reward(
      prompts, completions, numbers=numbers, target=target, **columns),
    "format": [float(well_formed(given, answers.final(completion)))
               for given, completion in zip(
                 numbers, completions, strict=True)],
    "easy": [float(d == 1) for d in difficulty]}
