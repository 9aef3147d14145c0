from fractions import Fraction

import hypothesis
import pytest
from hypothesis import strategies as st

from dlrl.tasks.mathematics import exact_numbers


def value(read, text):
  number = read(text)
  return None if number is None else number.value


@pytest.mark.parametrize("text, want", [
  ("18", 18), (" 18 ", 18), ("+18", 18), ("-18", -18), ("- 18", -18),
  ("\u221218", -18),  # Unicode's minus sign
  ("007", 7), ("18.", 18), ("18.00", 18), (".5", Fraction(1, 2)),
  ("0.1", Fraction(1, 10)), ("-0.25", Fraction(-1, 4)),
  ("1,234", 1234), ("1,234,567.50", Fraction(2469135, 2)),
  ("1{,}234", 1234), ("10,\\!080", 10080), ("11,\\! 111,\\! 100", 11111100),
  ("$18", 18), ("\\$32,\\!348", 32348), ("\u20ac18.90", Fraction(189, 10)),
  ("$18$", 18), ("\\(18\\)", 18), ("{18}", 18), ("**18**", 18),
  ("50%", 50), ("50\\%", 50), ("50 percent", 50),
  ("18 eggs", 18), ("18 dollars per day.", 18), ("5 cm^2", 5),
  ("15\\mbox{ cm}^2", 15), ("864 \\mbox{ inches}^2", 864),
  ("5.4 \\text{ cents}", Fraction(27, 5)), ("20 miles/hour", 20),
  ("90^\\circ", 90), ("90^{\\circ}", 90), ("90\u00b0", 90),
  ("1/2", Fraction(1, 2)), ("-3/4 cup", Fraction(-3, 4)),
  ("6/4", Fraction(3, 2)), ("3 1/2", Fraction(7, 2)),
  ("3 and 1/2", Fraction(7, 2)), ("-3 1/2", Fraction(-7, 2)),
  ("\\frac{1}{2}", Fraction(1, 2)), ("-\\dfrac{35}{9}", Fraction(-35, 9)),
  ("\\frac{-1}{2}", Fraction(-1, 2)), ("\\frac{1}{-2}", Fraction(-1, 2)),
  ("\\frac12", Fraction(1, 2)),
  ("\\frac 59", Fraction(5, 9)), ("\\frac9{19}", Fraction(9, 19)),
  ("\\frac{270}7\\text{ degrees}", Fraction(270, 7)),
  ("1\\frac{4}{5}", Fraction(9, 5)), ("137 \\frac{1}{2}", Fraction(275, 2)),
  ("9" * 100, int("9" * 100)),
  ("5 million", 5 * 10**6), ("2 thousand dollars", 2000),
  ("1.5 \\text{ million}", 15 * 10**5), ("2 hundred thousand", 200_000),
  ("130\\,000", 130_000), ("1\\,234\\,567", 1_234_567),
  ("130~000", 130_000), ("130\u202f000", 130_000), ("130\\ 000", 130_000),
  ("<<16-4=12>>12", 12), ("\\cfrac{1}{2}", Fraction(1, 2)),
  ("\\textit{18}", 18),
])
def test_one_number_in_many_spellings(text, want):
  assert value(exact_numbers.whole, text) == want
  assert value(exact_numbers.last, text) == want


@pytest.mark.parametrize("text, want", [
  ("She makes $18 every day", 18), ("x = 5", 5), ("9 * 2 = 18", 18),
  ("\\text{cost} = -6", -6), ("It is **18**.", 18), ("(18)", 18), ("[18]", 18),
  ("from 16 eggs, 18 dollars", 18), ("5 or 6", 6), ("5, 6", 6), ("5\n6\n", 6),
  ("total: 18", 18), ("so \\implies 18", 18), ("5cm", 5), ("a 5-day week", 5),
  ("5 x", 5), ("\u0665 or 6", 6),
])
def test_the_last_number_of_a_sentence(text, want):
  assert value(exact_numbers.last, text) == want
  assert exact_numbers.whole(text) is None


@pytest.mark.parametrize("text", [
  "", " ", "$", "two", "no number", "x", ".", "-", "\\frac{1}{x}",
  "10**9", "10 ** 9", "10^9", "2^{10}", "2^10", "9**9**9", "1e9", "0x10",
  "9*2", "9 \\times 2", "9 \\cdot 2", "3+4", "3 + 4", "3-5", "3 - 5", "3 -5",
  "1 \\pm 2", "5!", "f(2)", "\\sqrt{3}", "\\sqrt 3", "\\sin 30", "|-5|",
  "\\frac{3\\sqrt{3}}{4}", "\\frac{20000}{\\pi}", "2\\pi", "5x", "5x^2", "x5",
  "a5", "52_8", "4210_{5}", "x_1",
  "5,6", "1,23", "1,2345", "0,123", "1.2.3", "12:30", "3/4/2020", "1 234",
  "5/0", "1/-2", "1.5/2", "1 2/1", "9" * 101, "9" * 10**6, "1/" + "9" * 101,
  "5 squared", "5 million + 1",
  "5\u00b2", "\u00b2", "\u0665", "1\u0665", "\u0661\u0662", "\uff15", "\u2167",
  "\u4e94", "5\u5143", "1\u200b2", "1\x002", "5\u0338", "\U0001d7d3",
])
def test_texts_that_are_not_numbers(text):
  assert exact_numbers.last(text) is None
  assert exact_numbers.whole(text) is None


def test_a_number_is_not_cut_by_the_end_of_what_is_read():
  filler = " eggs" * 199
  for digits in range(1, 9):
    number = exact_numbers.last(
      "1" * digits + filler + "." * (1000 - 995 - digits))
    assert number is None or number.value == int("1" * digits)
  assert exact_numbers.last("5" + filler * 2) is None
  assert value(exact_numbers.last, filler * 2 + " 5") == 5


def test_percents_equal_the_number_and_the_hundredth():
  equal = exact_numbers.equal
  percent, fifty, half, one = map(
    exact_numbers.whole, ("50%", "50", "0.5", "1%"))
  assert percent.percent and not fifty.percent
  assert equal(percent, fifty) and equal(fifty, percent)
  assert equal(percent, half) and equal(half, percent)
  assert not equal(fifty, half)
  assert not equal(percent, one)
  assert not equal(half, one)


def test_decimals_are_not_floats():
  equal, whole = exact_numbers.equal, exact_numbers.whole
  near = "0.1" + "0" * 30 + "1"
  assert not equal(whole(near), whole("0.1"))
  assert float(near) == 0.1
  assert not equal(whole("1/3"), whole("0.333333333333333333"))


def spellings(draw, number):
  """The number in one of the ways in which people write it."""
  text = draw(st.sampled_from([f"{number}", f"{number:,}", f"{number}.00",
                               f"{number:,}.0"]))
  for around in draw(st.lists(st.sampled_from([
      "$%s", "%s dollars", " %s ", "\\text{%s}", "%s\\text{ cm}", "%s%%",
      "\\$%s", "%s.", "\\(%s\\)"]), max_size=2, unique=True)):
    twice = around.endswith(("%%", ".")) and text.endswith((".", "%"))
    if not twice and not ("\\text" in around and "\\text" in text):
      text = around % text
  return text


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.data(), st.integers(-10**9, 10**9))
def test_spellings_of_a_number_have_its_value(data, number):
  text = spellings(data.draw, number)
  assert value(exact_numbers.last, text) == number, text
