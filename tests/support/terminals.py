"""A terminal: runs commands on it, and is what a user would then see."""

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
import unicodedata

# Colours; erase the line; move up. A program that sends anything else fails.
_SEQUENCE = re.compile(r"\x1b\[(?:[\d;]*m|2K|(\d+)A)")


def columns_of(char):
  """Columns that a character takes, by Unicode's own tables."""
  if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
    return 0
  return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def unbroken(text):
  """Lines that were broken to fit are whole again, with single spaces."""
  return re.sub(r"\n {12}(?! )|  +", " ", text)


class Terminal:
  """A screen without end, with as many columns as are written to.

  Attributes:
    lines: what it shows, each line a list of cells; a wide character is
      followed by an empty cell.
    was: all that was overwritten or erased, in the order in which it was.
  """

  def __init__(self):
    self.lines, self.was = [[]], []
    self._row = self._column = 0
    self._decoder = codecs.getincrementaldecoder("utf-8")("strict")
    self._rest = ""

  @property
  def text(self):
    return ["".join(line).rstrip() for line in self.lines]

  @property
  def widest(self):
    """Columns of the widest line that there ever was."""
    return max(map(len, [*self.lines, *self.was]))

  @property
  def changed(self):
    """The texts that were overwritten or erased."""
    return [text for line in self.was if (text := "".join(line).strip())]

  def feed(self, data):
    """Takes bytes that a program has written."""
    text, self._rest = self._rest + self._decoder.decode(data), ""
    while text:
      if text[0] == "\x1b":
        match = _SEQUENCE.match(text)
        if match is None:
          assert len(text) < 16, repr(text[:40])
          self._rest = text
          return
        if match[0].endswith("K"):
          self._keep()
          self.lines[self._row] = []
        elif match[1]:
          self._row -= int(match[1])
          assert self._row >= 0
        text = text[match.end():]
        continue
      self._put(text[0])
      text = text[1:]

  def _put(self, char):
    if char == "\r":
      self._column = 0
    elif char == "\n":
      self._row += 1
      if self._row == len(self.lines):
        self.lines.append([])
    else:
      assert unicodedata.category(char)[0] != "C", repr(char)
      line, size = self.lines[self._row], columns_of(char)
      if size == 0:
        line[self._column - 1] += char
        return
      if self._column < len(line):
        self._keep()
      line.extend([" "] * (self._column - len(line)))
      line[self._column:self._column + size] = [char] + [""] * (size - 1)
      self._column += size

  def _keep(self):
    line = self.lines[self._row]
    if line and (not self.was or self.was[-1] != line):
      self.was.append(list(line))


def run(command, columns, *, timeout=300, **kwargs):
  """Runs a command whose three streams are a terminal.

  Returns:
    The `Terminal` at the end, all bytes written to it, and the exit code.
  """
  ours, theirs = pty.openpty()
  size = struct.pack("HHHH", 24, columns, 0, 0)
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, size)
  child = subprocess.Popen(
    command, stdin=theirs, stdout=theirs, stderr=theirs, **kwargs)
  os.close(theirs)
  data, deadline = b"", time.monotonic() + timeout
  while time.monotonic() < deadline:
    try:
      part = os.read(ours, 4096)
    except OSError:  # the program has ended
      break
    if not part:
      break
    data += part
  else:
    child.kill()
  os.close(ours)
  terminal = Terminal()
  terminal.feed(data)
  return terminal, data, child.wait()
