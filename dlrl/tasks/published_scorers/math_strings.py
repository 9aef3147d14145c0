r"""String equality of MATH answers by the rules of the dataset's authors.

Hendrycks et al. (arXiv 2103.03874) compare answers as strings, after rewriting
some LaTeX. Most published scores of diffusion models on MATH use these rules;
`mathematics.competition` compares values instead.
"""

import re

_REMOVED = ("\n", r"\!", r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$")
_UNIT = r"\text{ "


def equivalent(a: str, b: str) -> bool:
  """Whether the two are the same string after `normal`."""
  try:
    return normal(a) == normal(b)
  except ValueError:
    return a == b


def normal(text: str) -> str:
  r"""The answer in one spelling.

  Raises:
    ValueError: the published rules fail on the text: it has two units, or
      nothing after `\sqrt` or `\frac`.
  """
  text = text.replace("\n", "").replace(r"\!", "").replace("\\\\", "\\")
  text = text.replace("tfrac", "frac").replace("dfrac", "frac")
  for removed in _REMOVED[2:]:
    text = text.replace(removed, "")
  text = _without_unit(text).replace(r"\%", "")
  text = text.replace(" .", " 0.").replace("{.", "{0.")
  if not text:
    return text
  if text.startswith("."):
    text = "0" + text
  sides = text.split("=")
  if len(sides) == 2 and len(sides[0]) <= 2:
    text = sides[1]
  text = _braced_roots(text).replace(" ", "")
  text = _braced_fractions(text)
  return _slash_fraction(r"\frac{1}{2}" if text == "0.5" else text)


def last_boxed(text: str) -> str | None:
  r"""The last `\boxed{...}` or `\fbox{...}` with the command.

  The whole text if it has no box; None if the braces of the box never close. A
  box without braces, `\boxed 3`, ends at the next dollar sign.
  """
  if r"\boxed " in text:
    return r"\boxed " + text.rpartition(r"\boxed ")[2].partition("$")[0]
  start = text.rfind(r"\boxed")
  if start < 0:
    start = text.rfind(r"\fbox")
  if start < 0:
    return text
  depth = 0
  for brace in re.compile("[{}]").finditer(text, start):
    depth += 1 if brace[0] == "{" else -1
    if brace[0] == "}" and depth == 0:
      return text[start:brace.end()]
  return None


def unboxed(text: str) -> str:
  r"""The content of a text that is a box; any other text unchanged."""
  if text.startswith(r"\boxed "):
    return text[len(r"\boxed "):]
  if text.startswith(r"\boxed{") and text.endswith("}"):
    return text[len(r"\boxed{"):-1]
  return text


def _without_unit(text: str) -> str:
  if text.count(_UNIT) > 1:
    raise ValueError("two units")
  return text.partition(_UNIT)[0]


def _braced_roots(text: str) -> str:
  first, *rest = text.split(r"\sqrt")
  for part in rest:
    if not part:
      raise ValueError("a root of nothing")
    first += r"\sqrt" + (part if part[0] == "{" else f"{{{part[0]}}}{part[1:]}")
  return first


def _braced_fractions(text: str) -> str:
  first, *rest = text.split(r"\frac")
  for part in rest:
    if not part:
      raise ValueError("a fraction of nothing")
    if part[0] != "{":
      if len(part) < 2:
        return text
      lower = part[1] if part[1] == "{" else f"{{{part[1]}}}"
      part = f"{{{part[0]}}}{lower}{part[2:]}"
    first += r"\frac" + part
  return first


def _slash_fraction(text: str) -> str:
  parts = text.split("/")
  if len(parts) != 2:
    return text
  try:
    numerator, denominator = map(int, parts)
  except ValueError:
    return text
  if text != f"{numerator}/{denominator}":
    raise ValueError("not a fraction in lowest spelling")
  return rf"\frac{{{numerator}}}{{{denominator}}}"
