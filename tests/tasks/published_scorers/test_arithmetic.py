import hypothesis
import pytest
from hypothesis import strategies as st
from timing import timed

from dlrl.tasks.published_scorers import arithmetic

small = st.sampled_from(["0", "1", "2", "7", "1.5", ".5", "3.", "10", "007"])
expressions = st.recursive(small, lambda inner: st.one_of(
  st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", " - "]), inner
            ).map("".join),
  st.tuples(small, st.just("**"), small).map("".join),
  inner.map("({})".format), inner.map("-{}".format), inner.map("+{}".format),
), max_leaves=8)


def by_eval(text):
  try:
    return eval(text, {"__builtins__": None}, {})
  except Exception:
    return None


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(st.one_of(expressions, st.text("123+-*/(). ", max_size=12)))
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_values_are_those_of_eval(expression):
  hypothesis.assume("**" not in expression.replace(" ", "")
                    or len(expression) < 12)
  want = by_eval(expression.strip())
  if not isinstance(want, int | float | complex):
    want = None  # "()" and "1, 2" have values, but no graders want them
  value = arithmetic.value(expression)
  if value is None and want is not None:
    assert abs(want) > 2**900  # beyond the bound of a power
  else:
    assert value == want or value != value


@pytest.mark.parametrize("expression", [
  "93**(100**30)", "9**9**9**9**9", "2**-9**9**9", "(9**9**9)*0",
  "9" * 10**6, "(" * 10**6, "-" * 900 + "1", "(" * 190 + "1" + ")" * 190,
  "1" + "+1" * 499, "1/0", "0**-1", "7//0", "1 2", "f(2)", "5(2)", "()",
  "[1][0]", "'a'*9", "1if 1else 2", "\u0661+1", "\x00", "...",
  "__import__('os')", "9.9**999"])
def test_no_text_takes_long_or_raises(expression):
  value = timed(0.05, arithmetic.value, expression)
  assert value in (None, 500, 1)
