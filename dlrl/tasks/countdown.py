"""Countdown: an expression of given numbers that has a given value.

A prompt is the numbers and the target, `30,100,93=23`. A completion is one
expression, `30-100+93`: integers, + - * / and parentheses, with every number
used exactly as often as it is given. It is read by the tokenizer and parser
below and valued in fractions. What published graders let pass is refused:
powers, floor division, decimals, signs and digits glued together (`//` and `**`
are two operators in a row; `1.2` is no token). Rewards have TRL's signature and
never read the solution.
"""

import collections
import operator
import re
from collections.abc import Sequence
from fractions import Fraction

# ASCII digits, no leading zero: other scripts' digits pass str.isdigit and
# int(). A longer number or text cannot be an answer, and need not be read.
_TOKEN = re.compile(r"(0|[1-9][0-9]{0,8})|([-+*/()])| ")
_LONGEST = 200  # characters
_PROMPT = re.compile(r"([1-9][0-9]{0,8}(?:,[1-9][0-9]{0,8})+)=([0-9]{1,9})")

_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2}
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul,
              "/": operator.truediv}


def prompt_of(numbers: Sequence[int], target: int, *, width: int = 1) -> str:
  """The prompt of a problem: the numbers in order, and the target.

  The target has at least `width` digits.
  """
  return f"{','.join(map(str, numbers))}={target:0{width}}"


def problem_of(prompt: str) -> tuple[tuple[int, ...], int]:
  """`(numbers, target)`: the inverse of `prompt_of`.

  Raises:
    ValueError: it is not the prompt of a problem.
  """
  match = _PROMPT.fullmatch(prompt)
  if match is None:
    raise ValueError(
      f"{prompt!r} is no problem: numbers, then the target, as '3,5,2=10'")
  return tuple(map(int, match[1].split(","))), int(match[2])


def template(prompt: str) -> list[str | int]:
  """What is known of any answer: how long it can be; then it has ended.

  Raises:
    ValueError: it is not the prompt of a problem.
  """
  numbers, _ = problem_of(prompt)
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


def well_formed(numbers: Sequence[int], completion: str) -> bool:
  """Whether it is an expression of exactly these numbers, of any value."""
  parts = tokens(completion)
  return (parts is not None and numbers_used(numbers, parts)
          and value(parts) is not None)


def solved(prompt: str, completion: str) -> bool:
  """Whether the completion is an expression of the numbers with that value.

  Raises:
    ValueError: the prompt is not a problem's; no completion raises.
  """
  numbers, target = problem_of(prompt)
  parts = tokens(completion)
  # Numbers first: then the value is of a few operands, whatever the text.
  return (parts is not None and numbers_used(numbers, parts)
          and value(parts) == target)


def solved_reward(prompts: Sequence[str], completions: Sequence[str],
                  **columns: object) -> list[float]:
  """1 for a solved problem and 0 for everything else.

  Raises:
    ValueError: a prompt is not a problem's, or the lengths differ. No
      completion raises.
  """
  del columns
  return [float(solved(*pair))
          for pair in zip(prompts, completions, strict=True)]


def metrics(prompts: Sequence[str], completions: Sequence[str],
            **columns: object) -> dict[str, list[float]]:
  """`solved` and `format`, 0 or 1: the latter, an expression of the numbers.

  Raises:
    ValueError: as `solved_reward`.
  """
  return {
    "solved": solved_reward(prompts, completions, **columns),
    "format": [float(well_formed(problem_of(prompt)[0], completion))
               for prompt, completion in zip(
                 prompts, completions, strict=True)]}
