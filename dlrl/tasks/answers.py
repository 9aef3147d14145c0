r"""The final answer that a completion states, as text.

The first of these rules that finds something decides:

1. the last pair `<answer>...</answer>` without another tag inside,
2. the last `\boxed{...}` with balanced braces,
3. the last of these: a last line `#### ...`, an earlier line `#### 42` that is
   a number, and `The answer is ...` to the end of its line or sentence.

The answer is then unwrapped: a fenced block or code span to its code, `$...$`,
`\(...\)`, `\[...\]` and `**...**` to what they hold, and a box inside the pair
or the code to its content, even if that box never closes. Any other pair or box
that never closes is ignored, and an earlier one counts. Only the last answer
counts, so that writing several pays no more than writing one.

Completions may be hostile. Each rule is one pass from left to right over the
end of the text, and no pattern backtracks, so the time is linear.
"""

import re

# Characters read at a completion's end, where answers stand; bounds the time.
_READ = 20_000

_TAG = re.compile(r"</?answer>")
# Models that write JSON or Python double the backslash.
_BRACE = re.compile(r"\\\\?(?:boxed|fbox)\s*\{|\\[{}\\]|[{}]")
_FENCE = "```"
_PHRASE = re.compile(
  r"the (?:(?:final|correct|right|exact|numerical|required|only) ){0,2}"
  r"answer is:?(?:\*\*)?:?\s*", re.ASCII | re.I)
_SENTENCE_END = re.compile(r"\n|[.!](?:\s|$)")
_QUOTES = (("`", "`"), ("**", "**"), ("$$", "$$"), ("$", "$"),
           (r"\(", r"\)"), (r"\[", r"\]"))


def final(text: str) -> str:
  """The answer by rules 1 and 2, or else the whole text, stripped.

  For tasks in which a completion may consist of the answer only.
  """
  found = _marked(text[-_READ:])
  return text.strip() if found is None else found


def stated(text: str) -> str | None:
  """The answer by rules 1 to 3, stripped; None if the text states none."""
  text = text[-_READ:]
  found = _marked(text)
  return _phrased(text) if found is None else found


def tagged(text: str) -> str | None:
  """Content of the last pair of answer tags; None if there is no pair."""
  content, start = None, -1
  for tag in _TAG.finditer(text):
    if tag[0] == "<answer>":
      start = tag.end()
    elif start >= 0:
      content, start = text[start:tag.start()], -1
  return content


def boxed(text: str) -> str | None:
  r"""Content of the `\boxed{...}` that opens last; None if there is none.

  Escaped braces do not count. `\fbox` counts as a box.
  """
  last, content = -1, None
  starts: list[int] = []  # of the contents of open groups; -1 if not a box
  for brace in _BRACE.finditer(text):
    token = brace[0]
    if token == "{":
      starts.append(-1)
    elif token[-1] == "{" and len(token) > 2:
      starts.append(brace.end())
    elif token == "}" and starts:
      start = starts.pop()
      if start > last:
        last, content = start, text[start:brace.start()]
  return content


def unfenced(text: str) -> str:
  """Content of the last block between ``` fences, or the text if it has none.

  The rest of the opening fence's line is the name of a language.
  """
  parts = text.split(_FENCE)
  if len(parts) < 3:
    return text
  block = parts[(len(parts) - 1) // 2 * 2 - 1]
  _, line_end, code = block.partition("\n")
  return code if line_end and code.strip() else block


def _marked(text: str) -> str | None:
  content = tagged(text)
  if content is None:
    content = boxed(text)
    return None if content is None else content.strip()
  content = _unquoted(unfenced(content))
  inner = boxed(content)
  return _unquoted(_unboxed(content) if inner is None else inner)


def _unquoted(text: str) -> str:
  """Without the marks of code, formulas and bold around the whole text."""
  for left, right in _QUOTES:
    text = text.strip()
    inside = text[len(left):-len(right)]
    if text == left + inside + right and not (
        left in inside or right in inside):
      text = inside
  return text.strip()


def _unboxed(text: str) -> str:
  """Without a box that is opened first of all and never closed."""
  text = text.lstrip()
  opening = _BRACE.match(text)
  return text[opening.end():] if opening and len(opening[0]) > 2 else text


def _phrased(text: str) -> str | None:
  *lines, line = text.rstrip().split("\n")
  if line.startswith("####") and not line.startswith("#####"):
    return line[4:].strip()
  start, number, at = -1, None, -1
  for phrase in _PHRASE.finditer(text):
    start = phrase.end()
  end = 0
  for line in lines:
    if line.startswith("####") and _is_number(line[4:]):
      number, at = line[4:].strip(), end
    end += len(line) + 1
  if at > start:
    return number
  if start < 0:
    return None
  stop = _SENTENCE_END.search(text, start)
  return text[start:stop.start() if stop else None].strip()


def _is_number(line: str) -> bool:
  """Whether a line is a number, perhaps with a unit: no heading, "2. Total"."""
  number, *unit = line.split(maxsplit=2) or [""]
  return (any(c.isdigit() for c in number) and number[-1] not in ".:)#"
          and (not any(c.isalpha() for c in number) or "\\" in number[:3])
          and len(unit) < 2 and all(u.isalpha() and u.islower() for u in unit))
