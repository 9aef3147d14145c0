"""Prints safely, and shows what is under way in a line that changes.

Completions, names of tensors and files, and messages of templates come from
models and downloads. Printed as they are, they could command the terminal:
control characters are replaced, in any encoding.

On a terminal one line shows what is under way: it is drawn again four times a
second, below all that is printed meanwhile, and goes when nothing is under way.
Files, pipes and terminals that cannot move their cursor get lines only.
"""

import sys
import textwrap
import threading
import traceback
import unicodedata
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple
from typing import TextIO

import rich.cells
import rich.console
import rich.live
import rich.progress_bar
import rich.table
import rich.text

from dlrl.buckets import mirror

_FILE = 80  # columns of a line in a file
_BAR = 8, 40  # columns of a bar, least and most
_KEPT = "\xa0"  # a space at which a line is not broken


def printable(text: str) -> str:
  """Replaces control characters, except for line ends and tabs."""
  return "".join(
    c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\ufffd"
    for c in text)


def escaped(text: str) -> str:
  """One line that shows all of a text: `\\n` for the end of a line.

  Whatever is not printed as a character of its own, such as control characters
  and those that change the direction of writing, is written as in Python.
  """
  return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def encodable(text: str, stream: TextIO) -> str:
  """Replaces by `?` what the encoding of `stream` does not have."""
  encoding = stream.encoding or "utf-8"
  return text.encode(encoding, "replace").decode(encoding)


def show(text: str, *, error: bool = False) -> None:
  """Prints a text and a line end; hostile and unprintable text is safe.

  The local copies of directories in buckets are named as their URLs.

  Args:
    text: any text.
    error: whether it goes to stderr.
  """
  stream = sys.stderr if error else sys.stdout
  stream.write(encodable(printable(mirror.shown(text)) + "\n", stream))
  stream.flush()


def show_traceback(kind: type[BaseException], error: BaseException,
                   trace: TracebackType | None) -> None:
  """Prints an exception; a `sys.excepthook`."""
  lines = traceback.format_exception(kind, error, trace)
  show("".join(lines).rstrip("\n"), error=True)


class View(NamedTuple):
  """What the changing line shows of some work.

  Attributes:
    name: its beginning, which is always shown.
    share: how much of the work is done, in [0, 1], for a bar; None: no bar.
    fields: the most important first; those for which there is no room are left
      out.
  """

  name: str
  share: float | None
  fields: Sequence[str]


Look = Callable[[], View]  # called again whenever the line is drawn

_muted = False
_errors = False
_lock = threading.RLock()
_under_way: list[Look] = []
_live: rich.live.Live | None = None


def mute() -> None:
  """Prints nothing from now on; process 0 of the job prints the same."""
  global _muted
  _muted = True


def use_stderr() -> None:
  """Prints to stderr from now on; stdout is for the program's results."""
  global _errors
  _errors = True


def changes() -> bool:
  """Whether there is a line that changes."""
  console = _console()
  return (not _muted and console.is_terminal and console.is_interactive
          and console.encoding.startswith("utf"))


def width() -> int:
  """Columns that a line may take."""
  return _console().width


def write(text: str, indent: str = "", *, error: bool = False) -> None:
  """Prints lines, broken between words to fit the width.

  Args:
    text: any text. A word that is longer than a line stays whole, so that paths
      can be copied.
    indent: precedes the first line; the others are indented as far.
    error: whether it goes to stderr, whatever `use_stderr` says.
  """
  if not _muted:
    show("\n".join(_broken(text, indent)), error=error or _errors)


def unbroken(text: str) -> str:
  """The same text; `write` does not break lines in it."""
  return text.replace(" ", _KEPT)


def begin(look: Look) -> None:
  """Shows work that begins, in place of what was shown; see `end`."""
  global _live
  with _lock:
    _under_way.append(look)
    if _live is not None:
      _live.refresh()
    elif changes():
      _live = rich.live.Live(
        _Line(), console=_console(), transient=True,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty())
      _live.start(refresh=True)


def end(look: Look) -> None:
  """Shows what was shown before `begin`."""
  global _live
  with _lock:
    if look in _under_way:
      _under_way.remove(look)
    if _live is not None and not _under_way:
      _live.stop()
      _live = None


def _broken(text: str, indent: str) -> Iterator[str]:
  rest = " " * len(indent)
  for line in printable(mirror.shown(text)).split("\n"):
    yield textwrap.fill(
      line, width(), initial_indent=indent, subsequent_indent=rest,
      break_long_words=False, break_on_hyphens=False).replace(_KEPT, " ")
    indent = rest


class _Console(rich.console.Console):
  def show_cursor(self, show: bool = True) -> bool:
    """Leaves the cursor: a process that is killed could not show it again."""
    return False


def _console() -> rich.console.Console:
  if _live is not None:
    return _live.console
  stream: TextIO = sys.stderr if _errors else sys.stdout
  is_terminal = stream.isatty()
  return _Console(
    file=stream, force_terminal=is_terminal, force_jupyter=False,
    width=None if is_terminal else _FILE)


class _Line:
  """The changing line, as it is at the moment."""

  def __rich_console__(
    self, console: rich.console.Console, options: rich.console.ConsoleOptions
  ) -> rich.console.RenderResult:
    shown = _under_way[-1:]
    if shown:
      # Not the last column, where some terminals wrap.
      yield _row(shown[0](), options.max_width - 1)


def _row(view: View, room: int) -> rich.table.Table:
  """The name, a bar, and the fields that fit into `room` columns."""
  least, most = _BAR if view.share is not None else (0, 0)
  room -= rich.cells.cell_len(view.name) + 1 + least
  fields = []
  for field in view.fields:
    room -= rich.cells.cell_len(field) + 2
    if room < 0:
      break
    fields.append(field)
  row = rich.table.Table.grid(padding=(0, 1))
  cells: list[rich.console.RenderableType] = [_text(view.name)]
  if view.share is not None:
    cells.append(rich.progress_bar.ProgressBar(
      total=1.0, completed=view.share,
      width=min(least + max(room, 0), most)))
  if fields:
    cells.append(_text("  ".join(fields)))
  row.add_row(*cells)
  return row


def _text(text: str) -> rich.text.Text:
  return rich.text.Text(
    printable(text), no_wrap=True, overflow="crop", end="")
