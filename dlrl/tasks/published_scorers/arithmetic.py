"""The value of an arithmetic expression by Python's rules, without `eval`.

Published Countdown graders evaluate answers as Python: with `**`, `//`, signs,
decimals and floats. Here the text is parsed as Python and never run. Its value
is computed in Python's own arithmetic, within bounds.
"""

import ast
import operator
import warnings
from collections.abc import Callable
from typing import Any

_LONGEST = 1_000  # characters
_POWER_BITS = 10_000  # of a power of integers; larger powers have no value

_UNARY: dict[type, Callable[[Any], Any]] = {
  ast.UAdd: operator.pos, ast.USub: operator.neg}
_BINARY: dict[type, Callable[[Any, Any], Any]] = {
  ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
  ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv,
  ast.Pow: operator.pow}

Value = int | float | complex


def value(expression: str) -> Value | None:
  """The expression's value; None if `eval` would raise or give no number.

  Also None where `eval` would take very long: for long texts and large powers.
  """
  if len(expression) > _LONGEST:
    return None
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      tree = ast.parse(expression.strip(), mode="eval")
    return _value(tree.body)
  except (SyntaxError, ValueError, ArithmeticError, MemoryError,
          RecursionError):
    return None


def _value(node: ast.expr) -> Value:
  """Raises ValueError or ArithmeticError where there is no value."""
  match node:
    case ast.Constant(int() | float() as number):
      return number
    case ast.UnaryOp(op, operand) if type(op) in _UNARY:
      return _UNARY[type(op)](_value(operand))
    case ast.BinOp(left, op, right) if type(op) in _BINARY:
      a, b = _value(left), _value(right)
      if (isinstance(op, ast.Pow) and isinstance(a, int) and isinstance(b, int)
          and abs(a) > 1 and a.bit_length() * abs(b) > _POWER_BITS):
        raise ValueError("the power is too large")
      if isinstance(op, ast.FloorDiv) and complex in (type(a), type(b)):
        raise ValueError("complex numbers have no floor")
      return _BINARY[type(op)](a, b)
  raise ValueError(f"{type(node).__name__} is not arithmetic")
