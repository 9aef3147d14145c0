r"""Takes an answer apart: lists, names of values, brackets.

All functions expect a spelled text (`spelling.spelled`).
"""

import functools
import re
from typing import NamedTuple

from dlrl.tasks.mathematics import spelling

_MAX_LAYERS = 5  # of brackets around a single value

_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_TOKEN = re.compile(
  r"\\[{}]|\\begin\{[a-z]*\}|\\end\{[a-z]*\}|\\text\{[^{}]*\}|\\[A-Za-z]+|\\."
  r"|,(?:\\[,;: ]|\s|~)*(?:and|or)(?![A-Za-z])"
  r"|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|.", re.DOTALL)
_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9,])")

# Commands that a name may contain, before and beside letters.
_LETTERS = (
  "alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda "
  "mu nu xi pi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda "
  "Xi Pi Sigma Phi Psi Omega ell angle measuredangle triangle overline "
  "widehat overrightarrow vec hat bar tilde prime circ sin cos tan cot sec csc "
  "log ln det gcd lcm max min arg deg Re Im dim ker Pr Var text mid cap cup"
)
_COMMAND = rf"\\(?:{_LETTERS.replace(' ', '|')})(?![A-Za-z])"
_NAME = re.compile(
  rf"(?:\\?#)?(?:{_COMMAND}|[A-Za-z]|\|[A-Za-z\\ ]+\||\[[A-Z ]+\]"
  r"|\([A-Za-z](?:, ?[A-Za-z])+\)|\([A-Za-z] ?\\circ ?[A-Za-z]\))"
  rf"(?:{_COMMAND}|[A-Za-z' ]|_(?:[A-Za-z0-9]|\{{[^{{}}=]*\}})"
  r"|(?<=[A-Za-z])[0-9]{1,3}|\^(?:\{-1\}|\\prime|\{\\prime\}|\*)"
  r"|\((?:[^()]|\([^()]*\))*\)|\{[A-Za-z ]+\})*")
_CALL = re.compile(r"(?<![A-Za-z\\])([a-zA-Z])\((.*)\)")
_FUNCTIONS = frozenset("fghpqrsFGHPQRSTENVACDLdn")
_VARIABLE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]|\\(?:alpha|beta|theta|lambda"
                       r"|mu|phi|omega|sigma|gamma|delta)(?![A-Za-z])")


_MODULUS = re.compile(
  r"(?:\\pmod *\{? *([0-9]+) *\}?|\( *(?:\\[bp]?mod|\\text\{ *mod *\}) *"
  r"([0-9]+) *\)|\(\\text\{ *mod +([0-9]+) *\}\))\Z")
_SIGN = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_SPACE = re.compile(r"\s|~|\\[,;: ]|\\q?quad(?![A-Za-z])")
_SPACES_BEFORE = re.compile(rf"\A(?:{_SPACE.pattern})+")
_SPACES_AFTER = re.compile(rf"(?:{_SPACE.pattern})+\Z")
_WORDS = re.compile(r"\\text\{([^{}]*)\}")
_NAME_MARKS = re.compile(r"m(?=\\angle)|\\overline")
_BRACES = str.maketrans("", "", "{}")


class Item(NamedTuple):
  """One entry of a list, `name = value`.

  Attributes:
    name: empty if there is none.
    value: what follows the name; the whole text without a name.
    text: the entry as it stands.
    equation: whether it has `=`, but not only after a name.
  """

  name: str
  value: str
  text: str
  equation: bool


class Group(NamedTuple):
  """The parts between a pair of brackets, `[` and `)` for example."""

  left: str
  right: str
  parts: tuple[str, ...]


def items(text: str) -> tuple[Item, ...]:
  """Entries of a list: of one, if the text is no list."""
  return tuple(item for part in separated(text) for item in _both_signs(part))


def separated(text: str, *, thousands: bool = True) -> list[str]:
  """Splits at commas, semicolons, "and" and "or" outside of all brackets.

  Args:
    text: what to split; it must not stand in brackets.
    thousands: whether 1,234 is one number. In brackets it is not.
  """
  kept = {match.start() + at for match in _THOUSANDS.finditer(text)
          for at, c in enumerate(match[0]) if c == ","} if thousands else set()
  parts, start, depth = [], 0, 0
  for token in _TOKEN.finditer(text):
    word = token[0]
    depth = max(0, depth + _deeper(word))
    if depth == 0 and token.start() not in kept and (
        word[0] in ",;" or word in ("and", "or")):
      parts.append(text[start:token.start()])
      start = token.end()
  parts.append(text[start:])
  return [part for part in map(_trimmed, parts) if part] or [text]


def group(text: str) -> Group | None:
  """The parts of a text that is one pair of brackets, else None."""
  left = r"\{" if text.startswith(r"\{") else text[:1]
  right = r"\}" if text.endswith(r"\}") else text[-1:]
  if left not in ("(", "[", r"\{") or right not in (")", "]", r"\}") or (
      (left == r"\{") != (right == r"\}")):
    return None
  depth = 0
  for token in _TOKEN.finditer(text):
    depth += _deeper(token[0])
    if depth <= 0:
      if token.end() < len(text):
        return None
      break
  inside = text[len(left):len(text) - len(right)]
  parts = separated(inside, thousands=False)
  if left == r"\{":
    parts = [item.text for part in parts for item in _both_signs(part)]
  return Group(left, right, tuple(parts))


@functools.lru_cache(4096)
def unwrapped(text: str) -> str:
  """Without parentheses and braces around a single value: `(60)`."""
  for _ in range(_MAX_LAYERS):
    text = _trimmed(text)
    if text[:1] == "{" and text[-1:] == "}" and _one_pair(text):
      text = text[1:-1]
    else:
      found = group(text)
      if found is None or (found.left, found.right, len(found.parts)) != (
          "(", ")", 1):
        break
      text = found.parts[0]
  return text


def residue(text: str) -> tuple[str, str]:
  r"""Splits `x \equiv 5 \pmod 7` into `x = 5` and the modulus, "" without one.
  """
  match = _MODULUS.search(text)
  if match is None or not (value := _trimmed(text[:match.start()])):
    return text, ""
  return re.sub(r"\\equiv(?![A-Za-z])", "=", value), "".join(
    match.groups(default=""))


def unknowns(text: str) -> bool:
  """Whether a value has variables; words do not count."""
  return _VARIABLE.search(re.sub(r"\\text\{[^{}]*\}", "", text)) is not None


def product(name: str) -> bool:
  """Whether a name may be a product of variables, `xy`."""
  return len(name) > 1 and name.isalpha() and name.islower()


def _deeper(token: str) -> int:
  if token in _OPEN or token == r"\{" or token.startswith(r"\begin"):
    return 1
  return -(token in _CLOSE or token == r"\}" or token.startswith(r"\end"))


def _one_pair(text: str) -> bool:
  depth = 0
  for token in _TOKEN.finditer(text):
    depth += _deeper(token[0])
    if depth <= 0:
      return token.end() == len(text)
  return False


def _trimmed(text: str) -> str:
  r"""Without space at the ends, also LaTeX's: `\,`, `~` and `\quad`."""
  return _SPACES_BEFORE.sub("", _SPACES_AFTER.sub("", text))


def _both_signs(text: str) -> list[Item]:
  r"""The entries that `x = 1 \pm 2` stands for; a set is one."""
  if not _SIGN.search(text) or r"\{" in text:
    return [_item(text)]
  signs = [sign[1] for sign in _SIGN.finditer(text)]
  between = _SIGN.split(text)[::2]
  return [_item("".join([between[0], *(
    f" {'+' if sign == plus else '-'} {part}"
    for sign, part in zip(signs, between[1:], strict=True))]))
    for plus in ("pm", "mp")]


def _item(text: str) -> Item:
  sides, start, depth = [], 0, 0
  previous = ""
  for token in _TOKEN.finditer(text):
    depth += _deeper(token[0])
    if depth <= 0 and ((token[0] == "=" and previous not in tuple("<>!:="))
                       or token[0] == r"\in"):
      sides.append(_trimmed(text[start:token.start()]))
      start = token.end()
    previous = token[0]
  sides.append(_trimmed(text[start:]))
  if len(sides) == 1:
    return Item("", text, text, False)
  if len(sides) == 2 and all(sides):
    left, right = map(_name, sides)
    if left:
      return Item(left, sides[1], text, False)
    if right and not unknowns(sides[0]):
      return Item(right, sides[0], text, False)
  return Item("", text, text, True)


def _name(text: str) -> str:
  """Returns a name in one spelling, or an empty string for other texts."""
  if not _NAME.fullmatch(_SPACE.sub(" ", _WORDS.sub(r"\1", text)).strip()):
    return ""
  name = spelling.reduced(text)
  for letter, arguments in _CALL.findall(name):
    if letter not in _FUNCTIONS or letter in arguments:
      return ""  # x(x+1) is a product
  return _NAME_MARKS.sub("", name).translate(_BRACES)
