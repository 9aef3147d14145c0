r"""One spelling for what LaTeX spells in several ways.

`spelled` keeps the layout of an answer: its lists, brackets, units and words,
the last in `\text{}` whatever command the answer used. `normal` reduces a text
without units to a string that can be compared. Both take linear time.
"""

import functools
import re

from dlrl.tasks.mathematics import exact_numbers
from dlrl.tasks.mathematics import units

_UNICODE = str.maketrans({
  "\u2212": "-", "\u2013": "-", "\u00d7": r"\times ", "\u00b7": r"\cdot ",
  "\u22c5": r"\cdot ", "\u00f7": r"\div ", "\u00b1": r"\pm ",
  "\u2213": r"\mp ", "\u221e": r"\infty ", "\u03c0": r"\pi ",
  "\u03b8": r"\theta ", "\u00b0": r"^\circ ", "\u2220": r"\angle ",
  "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ",
  "\u222a": r"\cup ", "\u2229": r"\cap ", "\u2208": r"\in ",
  "\u2205": r"\emptyset ", "\u00a0": r"\,", "\u2009": r"\,",
  "\u202f": r"\,", "\u2018": "'", "\u2019": "'", "\u00b2": "^2",
  "\u00b3": "^3"})

_STYLES = ("text|mathrm|mbox|hbox|textrm|textnormal|textup|textmd|textbf|mathbf"
           "|textit|mathit|textsl|textsf|mathsf|texttt|mathtt|textsc|emph|bm"
           "|boldsymbol|underline|mathnormal|operatorname|ensuremath|boxed|fbox")
_BRACE = re.compile(rf"\\(?:{_STYLES})\*? *\{{|\\.|[{{}}]", re.DOTALL)
_LETTER = re.compile("[A-Za-z]")
_OLD_FRACTION = re.compile(r"\\(over|choose)(?![A-Za-z])")
_GROUP = re.compile(r"\\.|[{}]", re.DOTALL)
# Before words are found: these would otherwise count as formulas in words.
_MARKUP = re.compile(
  r"\\\$|\\?[$\u20ac\u00a3\u00a5]|\\[()\[\]]|\\(?:displaystyle|textstyle|left"
  r"|right|limits|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr)(?![A-Za-z])")
_COMMANDS = {
  "cfrac": r"\frac", "dfrac": r"\frac", "tfrac": r"\frac",
  "dbinom": r"\binom", "tbinom": r"\binom", "varnothing": r"\emptyset",
  "leq": r"\le", "leqslant": r"\le", "geq": r"\ge", "geqslant": r"\ge",
  "neq": r"\ne", "lbrace": r"\{", "rbrace": r"\}", "lvert": "|",
  "rvert": "|", "vert": "|", "degree": r"^\circ", "thinspace": r"\,",
  "colon": ":", "lor": r"\text{or}", "vee": r"\text{or}"}
_COMMAND = re.compile(rf"\\({'|'.join(_COMMANDS)})(?![A-Za-z])")
_REWRITES = tuple((re.compile(pattern), with_) for pattern, with_ in (
    (r"(?<=[0-9])(?:\{,\}|(?:,\s?|\{,\})\\!\s?)(?=[0-9]{3}(?![0-9]))", ""),
    (r"\\!\s?", ""),
    (r"\\%", "%"),
    (r"\\\{\s*\\\}", r"\\emptyset "),
))
_TIDY = tuple((re.compile(pattern), with_) for pattern, with_ in (
    (r"\\text\{\s*([0-9][0-9.,]*)(\s[^{}]*)\}", r"\1\\text{\2}"),
    (r"\\frac\{\\text\{([^{}]*)\}\}\{\\text\{([^{}]*)\}(\^[23])?\}",
     r"\\text{\1/\2\3}"),
    (r"\{\{([^{}]*)\}\}", r"{\1}"),
    (r"(?:(?<=[-+=(,])|\A)\{(\\frac\{[^{}]*\}\{[^{}]*\})\}", r"\1"),
    (r"\\text\{\s*(?:positive )?infinity\s*\}", r"\\infty "),
))
_SEPARATOR = re.compile(r"(?:(?<![0-9]),|,(?![0-9])|;|\b(?:and|or)\b)", re.A)
_CASES = re.compile(r"\\(?:begin|end)\{cases\}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")

# How a subscript names a base: 11010_{two}, 11010_{\text{base 2}}.
_NUMERALS = ("two three four five six seven eight nine ten eleven twelve "
             "thirteen fourteen fifteen sixteen")
_BASES = {word: str(base) for base, word in enumerate(_NUMERALS.split(), 2)}
_NAMED_BASE = (r"\s*\(?(?:in )?(?:base[ -]?)?(?:" + "|".join(
  sorted(_BASES, key=len, reverse=True)) + r"|[0-9]{1,2})\)?\s*")
_BASE = re.compile(
  rf"(?<=[0-9A-Z)])(?:\s*_\s*(?:\{{{_NAMED_BASE}\}}|\\text\{{{_NAMED_BASE}\}}"
  rf"|\{{\\text\{{{_NAMED_BASE}\}}\}}|\{{\\text\{{\s*base\s*\}}\s*[0-9]{{1,2}}\}})"
  rf"|\s*\\text\{{(?=\s*\(?(?:in )?base){_NAMED_BASE}\}}"
  r"|\s*\\text\{\s*base\s*\}\s*[0-9]{1,2}|\s+\(?base[ -]?[0-9]{1,2}\)?)", re.I)

_BRACKETED = re.compile(r"\(([0-9][0-9A-F.]*)\)_")
# The order matters: spaces between digits are marked before all others go.
_NORMAL = tuple((re.compile(pattern), with_) for pattern, with_ in (
    (r"\\text\{([^{}]*)\}", r" \1 "),
    (r"(?<!\\)\\[,;: ]|\\q?quad(?![A-Za-z])|~", " "),
    (r"\^ *(?:\{ *\\circ *\}|\\circ(?![A-Za-z]))", ""),
    (r"(?<=[0-9])(?:\{,\}|,)(?=[0-9]{3}(?![0-9]))", ""),
    (r"\\(frac|sqrt) *([0-9a-zA-Z])", r"\\\1{\2}"),
    (r"(\\frac *\{[^{}]*\}) *([0-9a-zA-Z])", r"\1{\2}"),
    (r"(?<=[\^_])\{([0-9a-zA-Z])\}", r"\1"),
    (r"(?<=[0-9])\s+(?=[0-9])", "#"),  # "1 2" must not become "12"
    (r"\s+", ""),
))


def spelled(text: str) -> str:
  r"""Returns the answer with one spelling of commands, words and numerals.

  Words are in `\text{}`, without separators of lists inside: `\text{A or B}`
  becomes `\text{A},\text{B}`. Signs of currencies and mathematics are removed.
  """
  text = _MARKUP.sub("", text.translate(_UNICODE))
  if r"\begin{cases}" in text and "&" not in text:
    text = _CASES.sub(" ", text).replace(r"\\", ",")
  text = _COMMAND.sub(lambda match: _COMMANDS[match[1]], text)
  for pattern, replacement in _REWRITES:
    text = pattern.sub(replacement, text)
  text = _TEXT.sub(_separated, _unstyled(text))
  text = _old_fractions(text)
  for pattern, replacement in _TIDY:
    text = pattern.sub(replacement, text)
  text = exact_numbers.without_thin_spaces(text)
  text = _BRACKETED.sub(r"\1_", _BASE.sub(_based, text))
  return text.strip().removesuffix(".").strip()


@functools.lru_cache(4096)
def reduced(spelling: str) -> str:
  """Returns a string that is the same for spellings of one expression.

  Args:
    spelling: a text from `spelled`.
  """
  for pattern, replacement in _NORMAL:
    spelling = pattern.sub(replacement, spelling)
  return spelling.removesuffix(".")


def normal(text: str) -> str:
  """Returns `reduced` of a text in any spelling."""
  return reduced(spelled(text))


def words(text: str) -> bool:
  r"""Whether a spelled text has words: letters in `\text{}`."""
  return _TEXT.search(text) is not None


def _unstyled(text: str) -> str:
  r"""Replaces commands that only change the font.

  Plain words get `\text{}`; a formula in such a command stands by itself.
  """
  open_groups: list[tuple[int, bool]] = []  # index in parts; is it a style?
  parts: list[str] = []
  end = 0
  for brace in _BRACE.finditer(text):
    parts.append(text[end:brace.start()])
    end = brace.end()
    token = brace[0]
    if token.endswith("{") and token != r"\{":
      open_groups.append((len(parts), token != "{"))
      parts.append(token)
    elif token == "}" and open_groups and open_groups[-1][1]:
      start, _ = open_groups.pop()
      content = "".join(parts[start + 1:])
      if units.is_unit(unit := content.replace(r"\cdot", "*")):
        content = unit
      words = not set(content) & set("\\{}") and _LETTER.search(content)
      del parts[start:]
      parts.append(rf"\text{{{content}}}" if words else f" {content} ")
    else:
      if token == "}" and open_groups:
        open_groups.pop()
      parts.append(token)
  return "".join([*parts, text[end:]])


def _separated(words: re.Match[str]) -> str:
  parts = [part.strip() for part in _SEPARATOR.split(words[1])]
  if len(parts) == 1:
    [content] = parts
    # An option, `\text{(C)}`.
    return rf"(\text{{{content[1:-1]}}})" if (
      content[:1] == "(" and content[-1:] == ")") else words[0]
  return ",".join(rf"\text{{{part}}}" if part else "" for part in parts)


def _old_fractions(text: str) -> str:
  r"""Rewrites one `{a \over b}`, the innermost first, or `a \over b`."""
  while match := list(_OLD_FRACTION.finditer(text))[-1:]:
    [command] = match
    left, right = 0, len(text)
    depths: list[int] = []
    for brace in _GROUP.finditer(text):
      if brace.start() < command.start():
        if brace[0] == "{":
          depths.append(brace.end())
        elif brace[0] == "}" and depths:
          depths.pop()
    left = depths[-1] if depths else 0
    depth = 0
    for brace in _GROUP.finditer(text, command.end()):
      depth += (brace[0] == "{") - (brace[0] == "}")
      if depth < 0:
        right = brace.start()
        break
    name = {"over": "frac", "choose": "binom"}[command[1]]
    text = (rf"{text[:left]}\{name}{{{text[left:command.start()].strip()}}}"
            rf"{{{text[command.end():right].strip()}}}{text[right:]}")
  return text


def _based(match: re.Match[str]) -> str:
  [base] = re.findall(r"[0-9]+", match[0]) or [
    _BASES[word] for word in re.findall("[a-z]+", match[0].lower())
    if word in _BASES]
  return f"_{{{base}}}"
