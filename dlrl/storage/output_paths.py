"""Paths that flags name for results, checked before there are any.

So that hours of work do not end at a path that cannot be written.
"""

import contextlib
import errno
import functools
import os
import pathlib
from collections.abc import Iterator

from dlrl import strict
from dlrl.buckets import mirror
from dlrl.buckets import objects


def directory(flag: str, value: str | os.PathLike[str]) -> pathlib.Path:
  """The path of a directory that exists or can be created; creates nothing.

  Args:
    flag: names it in messages.
    value: the directory; `~` is expanded.

  Raises:
    strict.FlagError: it is a file or below one, or cannot be written.
  """
  found = path(flag, value)
  with reporting(flag, value):
    existing = next(
      p for p in (found, *found.parents) if p.exists() or p.is_symlink())
    _require(existing.is_dir(), errno.ENOTDIR, existing)
    _require(os.access(existing, os.W_OK | os.X_OK), errno.EACCES, existing)
  return found


def file(flag: str, value: str | os.PathLike[str]) -> pathlib.Path:
  """The path of a file that can be written; creates nothing.

  Arguments and errors are those of `directory`; its directory has to exist, and
  is in no bucket.
  """
  strict.require("://" not in os.fspath(value), flag, os.fspath(value),
                 "must be a local file", strict.FlagError)
  found = path(flag, value)
  with reporting(flag, value):
    strict.require(
      found.parent.is_dir(), flag, os.fspath(value),
      "its directory does not exist; create it first", strict.FlagError)
    _require(not found.is_dir(), errno.EISDIR, found)
    _require(os.access(found if found.exists() else found.parent, os.W_OK),
             errno.EACCES, found)
  return found


def path(flag: str, value: str | os.PathLike[str]) -> pathlib.Path:
  """The absolute path that a flag names; `~` is expanded.

  Of `gs://BUCKET/PATH` it is that of a local copy, see `buckets.mirror`.

  Raises:
    strict.FlagError: it is empty, in a bucket that cannot be used or of a user
      that is not there, or has characters that no path or no library can have.
    objects.BucketError: the bucket cannot be reached.
  """
  text = os.fspath(value)
  strict.require(bool(text) and "\0" not in text, flag, text,
                 f"give a path: --{flag}=PATH", strict.FlagError)
  if "://" in text:
    return mirror.local(text, functools.partial(
      strict.FlagError, flag, text))
  # Bytes that are not UTF-8; the libraries that write arrays take none. Under
  # LC_ALL=POSIX all letters with accents are such.
  strict.require(
    not any("\ud800" <= c <= "\udfff" for c in text), flag, text,
    "is not UTF-8 here; choose another path, or set LC_ALL=C.UTF-8",
    strict.FlagError)
  with reporting(flag, value):
    found = pathlib.Path(text).expanduser().absolute()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      found.stat()  # or its name is too long, or links go round in a circle
    return found


def absent(flag: str, value: str | os.PathLike[str]) -> pathlib.Path:
  """The path of a directory that can be created and does not exist yet.

  Arguments and errors are those of `directory`.
  """
  found = directory(flag, value)
  if objects.named(mirror.remote(found)):
    with contextlib.suppress(OSError):  # the copy of what does not exist
      found.rmdir()
  strict.require(not os.path.lexists(found), flag, os.fspath(value),
                 "exists; choose another", strict.FlagError)
  return found


@contextlib.contextmanager
def reporting(flag: str, value: str | os.PathLike[str]) -> Iterator[None]:
  """Turns errors of the system about a path into errors about its flag."""
  try:
    yield
  except (OSError, RuntimeError) as e:  # no home for `~user`
    reason = explained(e) if isinstance(e, OSError) else str(e)
    raise strict.FlagError(
      flag, os.fspath(value), f"cannot be written ({reason}); choose another "
      f"--{flag}") from e


def _require(ok: bool, number: int, path: pathlib.Path) -> None:
  if not ok:
    raise OSError(number, f"{path}: {os.strerror(number)}")


def explained(error: OSError) -> str:
  """What an error of the system means, for messages."""
  if error.errno == errno.ELOOP and error.filename:
    return f"{error.filename} is a symbolic link; remove it"
  return error.strerror or str(error)
