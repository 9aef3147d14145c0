"""Files of a run or an evaluation: never written through symbolic links.

Whoever can put a link into such a directory could otherwise choose which of the
user's files is overwritten.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import secrets
import stat
from typing import Any

_TMP = re.compile(r"\.[0-9a-f]{16}\.tmp")


def open_fd(path: str | os.PathLike[str], flags: int) -> int:
  """`os.open` for a regular file, with mode 0644 if it is created.

  Raises:
    OSError: `path` is a symbolic link or no regular file, among others.
  """
  # Without blocking: opening a pipe would wait for its other end.
  fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
  if not stat.S_ISREG(os.fstat(fd).st_mode):
    os.close(fd)
    raise OSError(errno.EINVAL, "no regular file", os.fspath(path))
  return fd


def read(path: str | os.PathLike[str]) -> bytes:
  """The content of a regular file, or of one that a link names.

  Raises:
    OSError: there is none, or it cannot be read.
  """
  def opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # as in `open_fd`

  with open(path, "rb", opener=opened) as f:
    if not stat.S_ISREG(os.fstat(f.fileno()).st_mode):
      raise OSError(errno.EINVAL, "no regular file", os.fspath(path))
    return f.read()


def replace(path: str | os.PathLike[str], data: bytes) -> None:
  """Replaces the file atomically; it is on disk when this returns.

  A symbolic link is replaced, not followed.
  """
  path = pathlib.Path(path)
  # A name that nobody can guess, and O_EXCL: no link can be there before us.
  tmp = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
  fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
  try:
    with open(fd, "wb") as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.replace(tmp, path)
  except BaseException:
    with contextlib.suppress(OSError):
      tmp.unlink()
    raise
  # The rename changes the directory, which has to be synced by itself.
  directory = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(directory)
  finally:
    os.close(directory)


def read_object(path: str | os.PathLike[str]) -> dict[str, Any]:
  """The JSON object that a file holds.

  Raises:
    ValueError: the file cannot be read, or holds something else.
  """
  try:
    return parsed(read(path))
  except OSError as e:
    raise ValueError(e.strerror) from e


def parsed(text: bytes) -> dict[str, Any]:
  """The JSON object that `text` is, in UTF-8.

  Raises:
    ValueError: it is something else.
  """
  try:
    found = json.loads(text.decode())
  except RecursionError as e:
    raise ValueError("nested too deeply") from e
  if not isinstance(found, dict):
    raise ValueError(f"not an object but {type(found).__name__}")
  return found


def is_tmp(name: str, of: str) -> bool:
  """Whether `name` is what a killed `replace` of the file `of` left."""
  return name.startswith(of) and bool(_TMP.fullmatch(name[len(of):]))
