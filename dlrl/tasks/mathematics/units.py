r"""Units behind a value, which do not matter for MATH.

A unit is words in `\text{}`, or a bare word of a list after a space. A bare
letter is not one: `60 m` may be sixty times m. Units may be squared or divided:
`\text{ m}^2`, `\text{km/h}`, `\text{m}/\text{s}^2`. Words that change the value
(percent, million) are not units.
"""

import re

_SHORT_UNITS = (
  "m s h g L l W V A N J K C F T ha Hz Pa kW kg km cm mm dm nm mg mL ml cL "
  "cl pt qt "
  "gm dL dl kL kJ kV mA cc ft in yd mi lb oz hr sq cu rd ms Mb Gb MB GB kB "
  "kN MW GW MJ MHz")
_LONG_UNITS = (
  "cm km mm kg ft mi lb lbs oz hr hrs mph kph kmh kW kWh mL inch inches foot "
  "feet yard yards mile miles meter meters metre metres centimeter centimeters "
  "centimetre centimetres millimeter millimeters kilometer kilometers "
  "kilometre kilometres unit units square cubic sq cu gram grams kilogram "
  "kilograms liter liters litre litres gallon gallons pound pounds ounce "
  "ounces second seconds sec minute minutes min hour hours day days week weeks "
  "month months year years degree degrees radian radians dollar dollars cent "
  "cents per")
_OTHER_WORDS = (
  "percent percentage pct hundred hundreds thousand thousands million millions "
  "billion billions trillion trillions factorial base and not for where when "
  "all any mod sqrt infinity times plus minus over")
_SHORT, _LONG, _NO_UNITS = (
  frozenset(words.split()) for words in (
    _SHORT_UNITS, _LONG_UNITS, _OTHER_WORDS))
_POWERS = frozenset({"squared", "cubed"})

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_TOKEN = re.compile(r"[A-Za-z]+|\^?-?[1-3](?![0-9])|[\s/.*()^~-]|.", re.DOTALL)
_SPACE = r"(?:\s|~|\\[,;: ]|\\q?quad(?![A-Za-z]))"
# What may be between the words of a unit and after them, one piece at a time.
_BETWEEN = re.compile(
  rf"(?:{_SPACE}|/|\\cdot(?![A-Za-z])|\^(?:-?[1-3]|\{{-?[1-3]\}})(?![0-9]))*")
_BARE = re.compile(rf"{_SPACE}([A-Za-z]+(?:/[A-Za-z]+)?)"
                   r"(?:\^(?:[23]|\{[23]\}))?\Z")
_SCALE = re.compile(r"(\^(?:\{ *\\circ *\}|\\circ)) *[CFK]\Z")
_LETTER = re.compile(rf"(?<=[0-9}}]){_SPACE}+(?:[mgLsh]|k?m/[hs]|g/L|\\Omega)"
                     r"(?:\^(?:[23]|\{[23]\}))?\Z")


def bare(text: str) -> str:
  """Returns a spelled text (`spelling.spelled`) without the unit at its end."""
  text = _SCALE.sub(r"\1", text)
  for match in _TEXT.finditer(text):
    value = text[:match.start()].rstrip(" ~\\,;:")
    if value and value[-1] not in "+-*/^_=<>({[|" and _ends(text, match):
      return value
  while (last := _BARE.search(text)) and last.start():
    words = set(last[1].split("/"))
    if not (words & _LONG and words <= _LONG | _SHORT):
      break
    text = text[:last.start()]
  return text


def bare_of_letters(text: str) -> str:
  """Also without a unit that is a bare letter, `60 m` or `60 m/s`.

  Only for an answer whose gold is a number, so that the letter cannot be a
  variable.
  """
  return _LETTER.sub("", bare(text))


def _ends(text: str, word: re.Match[str]) -> bool:
  """Whether there are only units from this match of `_TEXT` on."""
  found: re.Match[str] | None = word
  end = word.start()
  while found:
    if not is_unit(found[1]):
      return False
    between = _BETWEEN.match(text, found.end())
    end = between.end() if between else found.end()
    found = _TEXT.match(text, end)
  return end == len(text)


def is_unit(words: str) -> bool:
  """Whether words, without LaTeX, are a unit: `square inches` or `m/s^2`."""
  known = 0
  for token in _TOKEN.findall(words):
    if token.isascii() and token.isalpha():
      if token in _NO_UNITS or not (token in _SHORT or len(token) > 2) or (
          token in _POWERS and not known):
        return False
      known += 1
    elif token[-1] in "123":  # an exponent
      if not known:
        return False
    elif token not in "/.*()^~-" and not token.isspace():
      return False
  return known > 0
