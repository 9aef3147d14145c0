r"""Reads numbers in answers exactly, in the same way for golds and completions.

`last` finds the last number in a text; `whole` reads a text that is a number
and nothing else. Both ignore differences of spelling: `$` and other currencies,
thousands commas, a leading plus or zeros, trailing zeros, units, degrees, bold,
and LaTeX's spaces, `\text`, `\frac` and dollar signs. Numbers are integers,
decimals, fractions and mixed fractions. They are kept as fractions, never as
floats. "1.5 million" is worked out, and a percent sign is remembered.

A numeral that is part of something bigger is not read: of a power, product,
sum, function, root, list without spaces, time, date, version or name (`10**9`,
`2^{10}`, `3*4`, `5-6`, `f(2)`, `\sqrt{3}`, `1.2.3`, `5,6`, `12:30`, `x5`, `5x`,
`5!`). Digits must be ASCII, and a number next to a non-ASCII character is not
read.
"""

import re
from fractions import Fraction
from typing import NamedTuple

_MAX_READ = 1_000  # characters, at the end of a text
_MAX_DIGITS = 100  # of one number; a longer numeral is not read

# 10\,080. Not a plain space, which is as often between two numbers.
_THIN = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:(?:[\u00a0\u2009\u202f~]"
                   r"|\\[,;: ])[0-9]{3})+(?![0-9])")
_THIN_DECIMALS = re.compile(
    r"(?<![0-9.,])[0-9]+\.(?:[0-9]{3}(?:[\u00a0\u2009\u202f~]|\\[,;: ]))+"
    r"[0-9]{1,3}(?![0-9])")
_REPEATING = re.compile(
    r"(?<![0-9.,])([0-9]*)\.([0-9]*)\\(?:overline|bar|dot) *"
    r"(?:\{([0-9]+)\}|([0-9]))(?![0-9])")
_FONTS = ("text|mathrm|mbox|textbf|mathbf|textrm|textnormal|textit|mathit"
          "|textsf|mathsf|texttt|mathtt|underline|boldsymbol|emph")
# In order: Unicode and LaTeX become the ASCII that the patterns below expect.
_REWRITES = tuple((re.compile(pattern), with_) for pattern, with_ in (
    (r"<<[^<>]*>>", ""),  # GSM8K's calculator, <<2*3=6>>6
    (r"[\u00a0\u2009\u202f]", " "),
    ("\u2212", "-"),
    ("[\u201c\u201d\u2018\u2019]", "'"),
    (r"\\%", "%"),
    (r"\{,\}", ","),
    (r",\\!\s?", ","),
    (r"\\[!,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    (r"\\left(?![A-Za-z])|\\right(?![A-Za-z])", ""),
    (r"\\(?:times|cdot|div|ast|pm|mp)(?![A-Za-z])", "*"),
    ("[\u00d7\u00b7\u00f7\u00b1]", "*"),
    (r"\\(?:approx|implies|therefore|to|[Rr]ightarrow)(?![A-Za-z])", "="),
    (r"\^(?:\{\\circ\}|\\circ)|\\degree(?![A-Za-z])|\u00b0", " "),
    (r"\\?[$\u20ac\u00a3\u00a5]", ""),
    (r"\\[()\[\]]", " "),
    (rf"\\(?:{_FONTS}) *\{{([^{{}}\\]*)\}}", r" \1 "),
    # The sign of a denominator.
    (r"(\\[cdt]?frac *\{ *)([0-9]+ *\} *\{ *)-", r"\1-\2"),
    (r"\\[cdt]?frac *(?:\{ *(-?[0-9]+) *\}|([0-9])) *"
     r"(?:\{ *([0-9]+) *\}|([0-9])(?![0-9]))", r" \1\2/\3\4"),
    (r"(?:(?<=\s)|^)\*\*([^\s*][^*\n]*)\*\*(?=\s|[.,]|$)", r"\1"),
    # The exponent of a unit: cm^2.
    (r"(?:(?<=[A-Za-z]{2})|(?<=\sm))\s?\^(?:[23](?![0-9])|\{[23]\})", ""),
))

_NUMBER = re.compile(
    r"(?:(?P<sign>[-+])(?P<gap> *))?"
    r"(?:(?P<whole>[0-9]+) +(?:and +)?(?=[0-9]+/))?"
    r"(?P<value>[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?"
    r"|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?: */ *(?P<by>[0-9]+))?")
# Characters before or after a number that make it part of something bigger.
_FOREIGN = r"[^\t\n\r -~]"
_PART_BEFORE = re.compile(
    rf"(?:{_FOREIGN}|[A-Za-z0-9]|[0-9][.,:]|[A-Za-z0-9)\]}}^_][(\[{{]"
    r"|[-*/^_+<>|\\][ \t]*|[0-9][ \t]+|\\[A-Za-z]+[ \t]+)\Z")
_PART_BEFORE_SIGN = re.compile(
    rf"(?:{_FOREIGN}|[A-Za-z0-9]|[-*/^_+<>|\\0-9)\]}}%][ \t]*)\Z")
_PART_AFTER = re.compile(
    rf"{_FOREIGN}|[(\[{{!]|[.,:][0-9]"
    r"|[A-Za-z](?![A-Za-z])|[A-Za-z]{2,}[0-9^_(\[{]"
    r"|[ \t]*[*/^_+<>|\\]|[ \t]*-[ \t]*(?:[0-9.(]|[A-Za-z](?![A-Za-z]))"
    r"|\s*(?:squared|cubed|factorial)\b", re.ASCII | re.IGNORECASE)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6,
           "billion": 10**9, "trillion": 10**12}
_MAX_SCALES = 2
_SCALE = re.compile(rf"\s+({'|'.join(_SCALES)})s?\b", re.A | re.I)
_CONTEXT = 20  # characters before a number to which `_PART_BEFORE` is applied
_PERCENT = re.compile(r"\s*(?:%|percent\b)", re.A | re.I)
# Only these words of two letters: others are as often variables as units.
_UNITS = re.compile(
    r"(?:\s+(?:[A-Za-z]{3,}|[ckm]m|[km]g|ml|ft|in|mi|yd|lb|oz|hr|[ap]m|per)"
    r"|\s*/\s*[A-Za-z]{3,})*[\s.]*", re.ASCII)


class Number(NamedTuple):
  """A number as it is written: 50% has the value 50."""

  value: Fraction
  percent: bool = False


def equal(a: Number, b: Number) -> bool:
  """Whether two numbers are the same; 50% equals both 50 and 0.5."""
  if a.value == b.value:
    return True
  if a.percent == b.percent:
    return False
  rate, plain = (a, b) if a.percent else (b, a)
  return rate.value == 100 * plain.value


def last(text: str) -> Number | None:
  """Returns the last number in the text.

  None if the text has no number, or if its last numeral is part of something
  bigger; an earlier number never counts instead.
  """
  if len(text) > _MAX_READ:
    # Without the first word, since the cut may have gone through a number.
    text = " ".join(text[-_MAX_READ:].split(maxsplit=1)[1:])
  text = _plain(text)
  found = None
  for match in _NUMBER.finditer(text):
    found = match
  return _value(text, found) if found and _apart(text, found) else None


def whole(text: str) -> Number | None:
  """Reads a text that is a number, perhaps with units after it, else None."""
  if len(text) > _MAX_READ:
    return None
  text = _plain(text).strip()
  while text.startswith("{") and text.endswith("}"):
    text = text[1:-1].strip()
  match = _NUMBER.match(text)
  if match is None or not _apart(text, match):
    return None
  end = _scaled(text, match.end())[1]
  percent = _PERCENT.match(text, end)
  if not _UNITS.fullmatch(text, percent.end() if percent else end):
    return None
  return _value(text, match)


def without_thin_spaces(text: str) -> str:
  r"""Joins digits in groups of three between spaces of LaTeX, `10\,080`."""
  for pattern in (_THIN, _THIN_DECIMALS):
    text = pattern.sub(lambda match: re.sub("[^0-9.]", "", match[0]), text)
  return text


def _plain(text: str) -> str:
  text = _REPEATING.sub(_repeating, without_thin_spaces(text))
  for pattern, replacement in _REWRITES:
    text = pattern.sub(replacement, text)
  return text


def _repeating(decimal: re.Match[str]) -> str:
  r"""The fraction of `0.1\overline{6}`: (16 - 1) / 90."""
  whole, start, *periods = decimal.groups(default="")
  period = "".join(periods)
  if sum(map(len, (whole, start, period))) > _MAX_DIGITS:
    return decimal[0]
  above = int(whole + start + period) - int(whole + start or "0")
  return f"{above}/{'9' * len(period)}{'0' * len(start)}"


def _apart(text: str, number: re.Match[str]) -> bool:
  """Whether the number is not a part of something bigger."""
  start = number.start("sign" if number["sign"] else
                       "whole" if number["whole"] else "value")
  before = text[max(0, start - _CONTEXT):start]
  if _PART_AFTER.match(text, _scaled(text, number.end())[1]):
    return False
  if not number["sign"]:
    return not _PART_BEFORE.search(before)
  # "- 5" is a number only at the start and after "=" or ":"; else "-" is minus.
  if number["gap"] and before.rstrip()[-1:] not in ("", "=", ":"):
    return False
  return not _PART_BEFORE_SIGN.search(before)


def _value(text: str, number: re.Match[str]) -> Number | None:
  digits, by = number["value"].replace(",", ""), number["by"]
  if len(digits) > _MAX_DIGITS or len(by or "") > _MAX_DIGITS:
    return None
  value = Fraction(digits)
  if by:
    if int(by) == 0 or "." in digits:
      return None
    value /= int(by)
  if number["whole"]:
    if value >= 1 or len(number["whole"]) > _MAX_DIGITS:
      return None
    value += int(number["whole"])
  if number["sign"] == "-":
    value = -value
  scale, end = _scaled(text, number.end())
  return Number(value * scale, _PERCENT.match(text, end) is not None)


def _scaled(text: str, end: int) -> tuple[int, int]:
  """Reads "hundred thousand" at `end`: its value, and where it ends."""
  scale = 1
  for _ in range(_MAX_SCALES):
    match = _SCALE.match(text, end)
    if match is None:
      break
    scale, end = scale * _SCALES[match[1].lower()], match.end()
  return scale, end
