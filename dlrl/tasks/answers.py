r"""The final answer that a completion states, as text.

Of everything that looks like an answer the last one counts, in this order:

1. the last pair `<answer>...</answer>` with no such tag between its two,
2. the last `\boxed{...}` with balanced braces,
3. a last line `#### ...`, else the last `The answer is ...` to the end of its
   line or sentence.

What is found is unwrapped: of a fenced block, the code; of a box inside the
pair or the code, its content. A pair or box that never closes is none: an
earlier one counts. So writing several answers pays no more than writing one.

Completions are hostile. Everything is one pass from left to right over the end
of the text; no pattern backtracks.
"""

import re

# Characters at a completion's end that are read: an answer stands at the end,
# and the time that any text takes is bounded.
_READ = 20_000

_TAG = re.compile(r"</?answer>")
# Doubled backslashes come from models that write JSON or Python.
_BRACE = re.compile(r"\\\\?(?:boxed|fbox)\s*\{|\\[{}\\]|[{}]")
_FENCE = "```"
_PHRASE = re.compile(r"the (?:final )?answer is:?", re.ASCII | re.I)
_SENTENCE_END = re.compile(r"\n|\.(?:\s|$)")


def final(text: str) -> str:
  """The answer by rules 1 and 2, or else the whole text; stripped.

  For tasks whose completion may be the answer and nothing else.
  """
  found = _marked(text[-_READ:])
  return text.strip() if found is None else found


def stated(text: str) -> str | None:
  """The answer by rules 1 to 3, stripped; None: the text states none."""
  text = text[-_READ:]
  found = _marked(text)
  return _phrased(text) if found is None else found


def tagged(text: str) -> str | None:
  """Content of the last pair of answer tags; None: there is no pair."""
  content, start = None, -1
  for tag in _TAG.finditer(text):
    if tag[0] == "<answer>":
      start = tag.end()
    elif start >= 0:
      content, start = text[start:tag.start()], -1
  return content


def boxed(text: str) -> str | None:
  r"""Content of the last `\boxed{...}`, the one that opens last; or None.

  Escaped braces do not count. `\fbox` is a box, too.
  """
  last, content = -1, None
  starts: list[int] = []  # of the content of open groups; -1: of no box
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
  """Content of the last block between ``` fences, or the text without one.

  What follows the opening fence on its line names a language.
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
  content = unfenced(content)
  inner = boxed(content)
  return (content if inner is None else inner).strip()


def _phrased(text: str) -> str | None:
  # On the last line alone: elsewhere it is a heading, "#### 2. The total".
  line = text.rstrip().rpartition("\n")[2]
  if line.startswith("####") and not line.startswith("#####"):
    return line[4:].strip()
  start = -1
  for phrase in _PHRASE.finditer(text):
    start = phrase.end()
  if start < 0:
    return None
  end = _SENTENCE_END.search(text, start)
  return text[start:end.start() if end else None].strip()
