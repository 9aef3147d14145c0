import pytest

from dlrl.tasks.published_scorers import math_strings


@pytest.mark.parametrize("text, normal", [
  ("", ""), (" 1 2 ", "12"), ("\\dfrac12", "\\frac{1}{2}"),
  ("\\tfrac{1}{2}", "\\frac{1}{2}"), ("\\frac1{72}", "\\frac{1}{72}"),
  ("\\frac ab", "\\frac{a}{b}"), ("\\sqrt3", "\\sqrt{3}"),
  ("\\left(1,\\!2\\right)", "(1,2)"), ("90^{\\circ}", "90"),
  ("90^\\circ", "90"),
  ("\\$5", "5"), ("50\\%", "50"), ("5 \\text{ cm}", "5"),
  (".5", "\\frac{1}{2}"),
  ("0.5", "\\frac{1}{2}"), ("0.25", "0.25"), ("x = .5", "\\frac{1}{2}"),
  ("x=5", "5"), ("xyz=5", "xyz=5"), ("a=b=c", "a=b=c"),
  ("3/4", "\\frac{3}{4}"), ("x/4", "x/4"), ("1/2/3", "1/2/3"),
  ("\\frac5", "\\frac5"), ("1,000", "1,000"), ("a\\\\b", "a\\b"),
])
def test_the_published_rules(text, normal):
  assert math_strings.normal(text) == normal


@pytest.mark.parametrize("text", [
  "5 \\text{ a} \\text{ b}", "\\sqrt", "\\frac", "007/2"])
def test_where_the_rules_fail_the_texts_themselves_are_compared(text):
  with pytest.raises(ValueError):
    math_strings.normal(text)
  assert math_strings.equivalent(text, text)
  assert not math_strings.equivalent(text, "5")


@pytest.mark.parametrize("text, box, content", [
  ("so \\boxed{1} and \\boxed{\\frac{1}{2}}.", "\\boxed{\\frac{1}{2}}",
   "\\frac{1}{2}"),
  ("\\fbox{1}", "\\fbox{1}", "\\fbox{1}"),
  ("$\\boxed 3$ or", "\\boxed 3", "3"),
  ("no box", "no box", "no box"),
  ("\\boxed{1} \\boxed{2", None, None),
  ("\\boxed", None, None),
])
def test_the_last_box(text, box, content):
  assert math_strings.last_boxed(text) == box
  if box is not None:
    assert math_strings.unboxed(box) == content
