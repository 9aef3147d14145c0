"""Fenced blocks of Markdown, as models write them.

`lines` sees the fences that CommonMark sees, also in list items. `pieces` sees
fences anywhere in a line as well: after prose, and at the end of the code.
`read` pairs either's fences. Completions may be hostile: each function takes
time linear in the text, and no pattern backtracks.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

PYTHON = frozenset({"python", "python3", "py", ""})

_TAB = 4
# The text of a list item starts after "- ", "* ", "+ ", "1. " or "1) ".
_MARKER = re.compile(r"(?:[-*+]|[0-9]{1,9}[.)])[ ]+")
_STOPS = ".,;:!?)"
_RUN = re.compile(r"(`{3,})")
_LANGUAGE = re.compile(r"[{.]*([\w+#-]*)")


@dataclasses.dataclass(frozen=True)
class Fence:
  """A line, or a part of one, that opens or closes a block.

  Attributes:
    text: as it was written; a part of a longer block's content.
    run: its backticks or tildes.
    info: what follows them, stripped.
    column: where the text around it starts; the block's lines are moved to the
      left by as much if all can be.
    depth: columns before it; it closes no block that started 4 columns before.
    item: whether a list item starts on its line, so that it closes no block.
  """

  text: str
  run: str
  info: str = ""
  column: int = 0
  depth: int = 0
  item: bool = False

  @property
  def language(self) -> str:
    """The first word of `info` in lower case, without `{.` and what follows."""
    match = _LANGUAGE.match(self.info)
    return match[1].lower() if match else ""


class Reading(NamedTuple):
  """Blocks of a text: of each its language, "" if not marked, and its content.

  Attributes:
    complete: the blocks that were closed.
    broken: whether a block was not.
    open: the fence of the last block if it was not closed.
  """

  complete: list[tuple[str, str]]
  broken: bool
  open: Fence | None

  def programs(self) -> list[str]:
    """Contents of the complete blocks that are Python or not marked."""
    return [text for language, text in self.complete if language in PYTHON]


def lines(text: str) -> list[str | Fence]:
  """Splits a text into lines and the fences among them, by CommonMark's rules.

  A fence has at most 3 columns before it, or before it in its list item.
  """
  found: list[str | Fence] = []
  columns = {0}  # where texts of the list items above start
  for line in text.split("\n"):
    depth, column, rest = _inside(line)
    if column > depth:
      columns.add(column)
    elif rest and depth == 0:
      columns = {0}
    run = _leading_run(rest)
    info = rest[len(run):].strip()
    if run and not (run[0] == "`" and "`" in info) and any(
        column - indent in columns for indent in range(4)):
      found.append(Fence(line, run, info, column, depth, column > depth))
    else:
      found.append(line)
  return found


def pieces(text: str) -> list[str | Fence]:
  """Splits a text into lines and fences, also fences beside other text."""
  found: list[str | Fence] = []
  for line in text.split("\n"):
    before, *parts = _RUN.split(line)
    if before.strip() or not parts:
      found.append(before)
    column = _inside(before + "|")[1] if parts else 0
    for run, after in zip(parts[::2], parts[1::2], strict=True):
      first, *others = after.split(maxsplit=1) or [""]
      fence = Fence(run, run, first, column)
      # No language: a full stop, a bracket, a tag, or a remark.
      if first and (not first.strip(_STOPS) or _starts_none(first) or (
          after[0].isspace() and fence.language not in PYTHON)):
        fence, others = Fence(run, run, "", column), [after.strip()]
      found.append(fence)
      found += others
  return found


def read(parts: Sequence[str | Fence]) -> Reading:
  """Pairs fences.

  A fence with a language never closes a block: the block before was incomplete.
  """
  complete: list[tuple[str, str]] = []
  content: list[str] = []
  fence: Fence | None = None
  broken = False
  for part in parts:
    if isinstance(part, str):
      content.append(part)
    elif fence is not None and _is_content(part, fence):
      content.append(part.text)
    elif fence is not None and not part.info and not part.item:
      complete.append((fence.language, _block(content, fence.column)))
      fence = None
    else:
      broken = broken or fence is not None
      fence, content = part, []
  return Reading(complete, broken or fence is not None, fence)


def _is_content(part: Fence, fence: Fence) -> bool:
  """Whether a fence is part of the block that another one opened."""
  return (part.run[0] != fence.run[0] or len(part.run) < len(fence.run)
          or part.depth > fence.column + 3)


def _starts_none(info: str) -> bool:
  """Whether no language, `python` or `{.py}`, and no string ends like this."""
  return not info[0].isalnum() and info[0] not in "{._'\""


def _inside(line: str) -> tuple[int, int, str]:
  """Columns before a line's text, with and after list markers, and the text."""
  line = line.expandtabs(_TAB).rstrip()
  depth = column = len(line) - len(line.lstrip(" "))
  while match := _MARKER.match(line, column):
    column = match.end()
  return depth, column, line[column:]


def _leading_run(text: str) -> str:
  mark = text[:1]
  run = text[:len(text) - len(text.lstrip(mark))] if mark in ("`", "~") else ""
  return run if len(run) >= 3 else ""


def _block(content: Sequence[str], column: int) -> str:
  """The lines of a block, moved left by at most `column` columns."""
  move = min([column, *(_inside(line)[0] for line in content if line.strip())])
  if move:
    content = [_moved(line, move) for line in content]
  return "".join(f"{line}\n" for line in content)


def _moved(line: str, columns: int) -> str:
  rest = line.lstrip(" \t")
  return line[:len(line) - len(rest)].expandtabs(_TAB)[columns:] + rest
