"""Whether two expressions of sympy are equal, without rounding.

math-verify rounds differences to 15 places, so that all small numbers are equal
to it. `install` makes it use these functions instead.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import sympy
from math_verify import grader
from sympy.core import evalf

_DIGITS = (30, 300, 2000)  # of working precision, one after the other
_DIGITS_AT_A_POINT = (30, 100)
_TOLERANCE = sympy.Rational(1, 10**12)  # where the gold is a decimal
_POINTS = (sympy.Rational(-7, 5), sympy.Rational(3, 11), sympy.Rational(29, 13))


def install(*, decimal: bool) -> None:
  """Makes math-verify decide numbers exactly.

  Args:
    decimal: whether the gold has decimals. Then irrational numbers may differ
      from it by 1e-12, absolutely and relatively.
  """
  def numeric(a: Any, b: Any, *precision: int) -> bool:
    del precision
    return equal(a, b, decimal=decimal)

  grader.sympy_numeric_eq = numeric
  grader.sympy_symbolic_eq = numeric


def equal(a: Any, b: Any, *, decimal: bool = False) -> bool:
  """Whether two expressions, or matrices, are equal.

  Raises:
    Exception: sympy cannot subtract or evaluate them.
  """
  if isinstance(a, sympy.MatrixBase) or isinstance(b, sympy.MatrixBase):
    return _matrices_equal(a, b, decimal)
  if any(_infinite(side) for side in (a, b)):
    return bool(a == b)
  percents = [grader.get_pct_val(side) for side in (a, b)]
  if (percents[0] is None) != (percents[1] is None):  # 50% equals 50 and 0.5
    plain = [side if percent is None else percent
             for side, percent in zip((a, b), percents, strict=True)]
    if equal(*plain):
      return True
  a, b = _named_alike(a.doit()), _named_alike(b.doit())
  if a == b:
    return True
  if isinstance(a, sympy.Rational) and isinstance(b, sympy.Rational):
    return False
  difference = a - b
  if difference.free_symbols:
    return _same_function(difference)
  if decimal and _near(difference, a):
    return True
  return _zero(difference, _DIGITS)


def _matrices_equal(a: Any, b: Any, decimal: bool) -> bool:
  a, b = a.doit(), b.doit()
  return a.shape == b.shape and all(
    equal(x, y, decimal=decimal) for x, y in zip(a.flat(), b.flat(),
                                                 strict=True))


def _named_alike(expression: Any) -> Any:
  """Makes i the imaginary unit, and equal names equal symbols.

  math-verify takes i for a variable, and guesses anew for each text whether
  its variables are real. Sympy then tells those of one name apart.
  """
  return expression.subs({
    symbol: sympy.I if symbol.name == "i" else sympy.Symbol(
      symbol.name, real=True) for symbol in expression.free_symbols})


def _infinite(expression: Any) -> bool:
  return bool(expression.has(sympy.oo, -sympy.oo, sympy.zoo, sympy.nan))


def _same_function(difference: Any) -> bool:
  """Whether an expression of variables is zero everywhere."""
  if sympy.expand(difference) == 0:
    return True
  symbols = sorted(difference.free_symbols, key=str)
  for shift in range(len(_POINTS) + 1):
    points = itertools.islice(itertools.cycle(_POINTS), shift, None)
    if not _zero(difference.xreplace({
        symbol: point + index for index, (symbol, point)
        in enumerate(zip(symbols, points, strict=False))}).doit(),
                 _DIGITS_AT_A_POINT):
      return False
  return True


def _zero(number: Any, precisions: Sequence[int]) -> bool:
  """Whether a number is zero.

  A number that is zero to all digits is, if none of its parts is so small that
  it could hide behind the last of them.
  """
  number = sympy.sympify(number)
  if number.is_Rational:
    return bool(number.is_zero)
  for digits in precisions:
    if _nonzero(number, digits):
      return False
  parts = itertools.islice(sympy.preorder_traversal(number), 1, None)
  return not any(_small(part, precisions[-1]) for part in parts) or (
    sympy.simplify(number).is_zero is True)


def _near(number: Any, gold: Any) -> bool:
  value = abs(number.evalf(30, maxn=_DIGITS[-1]))
  limit = _TOLERANCE * min(1, abs(gold.evalf(30)))
  return bool(value <= limit)


def _nonzero(number: Any, digits: int) -> bool:
  """Whether the number is certainly not zero, by so many digits."""
  real, imaginary, accuracy, imaginary_accuracy = evalf.evalf(
    number, 10, {"maxprec": int(3.4 * digits)})
  return any(part is not None and part[1] and known is not None and known > 1
             for part, known in ((real, accuracy),
                                 (imaginary, imaginary_accuracy)))


def _small(part: Any, digits: int) -> bool:
  """Whether a part of a number is nearly zero, or nearly infinite."""
  value = abs(part.evalf(5, maxn=digits))
  limit = sympy.Integer(10)**(digits // 4)
  return not bool(1 / limit < value < limit) and value != 0
