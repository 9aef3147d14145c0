"""Prints text safely: no control characters, in any encoding.

Completions, names of tensors and files, and messages of templates come from
models and downloads. Printed as they are, they could command the terminal.
"""

import sys
import traceback
import unicodedata
from types import TracebackType
from typing import TextIO

from dlrl.buckets import mirror


def printable(text: str) -> str:
  """Replaces control characters, except for line ends and tabs."""
  return "".join(
    c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "\ufffd"
    for c in text)


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
