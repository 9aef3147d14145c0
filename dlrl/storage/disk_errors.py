"""Explains errors of disks and buckets in one line instead of a traceback."""

import errno
import pathlib
import re
from collections.abc import Iterator

from dlrl.buckets import objects

# Libraries report the kernel's error number only in their messages.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_IN_TEXT = re.compile(r"os_error_code='(\d+)'")
# Packages that read and write buckets; their errors have no common class.
_PACKAGES = ("aiohttp", "gcsfs", "google")
_NOT_SERVED = re.compile(
  "retry attempts failed|PERMISSION_DENIED|UNAUTHENTICATED|^Forbidden: ")


def explain(error: BaseException, workdir: pathlib.Path | str) -> str | None:
  """Says what happened and what to do next; None for other errors."""
  if any(map(_is_full, _causes(error))):
    return (f"no space left for {workdir}: free some, or raise the quota. The "
            "newest checkpoint is complete; the same command continues from it")
  root = pathlib.Path(workdir).expanduser().absolute()
  for e in _causes(error):
    if not isinstance(e, OSError) or not e.filename:
      continue
    if e.errno == errno.ELOOP:
      return (f"{e.filename} is a symbolic link, through which nothing is "
              "written; remove it")
    name = str(e.filename2 or e.filename)  # what a rename would replace
    if root in pathlib.Path(name).parents:
      fix = ("Put it back" if isinstance(e, FileNotFoundError) else
             "Make it a readable and writable file or directory, as it was")
      return f"{name}: {e.strerror}. {fix}, or start again in another --workdir"
  return None


def of_bucket(error: BaseException) -> str | None:
  """Why a bucket cannot be used any more, perhaps for a while; or None."""
  for e in _causes(error):
    text = str(e).partition("\n")[0]
    if (isinstance(e, objects.BucketError) or _NOT_SERVED.search(text)
        or type(e).__module__.partition(".")[0] in _PACKAGES):
      return text or type(e).__name__
  return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
  """The error and every error that it was raised from or after."""
  seen: set[int] = set()
  left = [error]
  while left:
    e = left.pop()
    if e is None or id(e) in seen:
      continue
    seen.add(id(e))
    yield e
    left += [e.__cause__, e.__context__]
    if isinstance(e, BaseExceptionGroup):
      left += e.exceptions


def _is_full(error: BaseException) -> bool:
  if isinstance(error, OSError) and error.errno in _FULL:
    return True
  return any(int(n) in _FULL for n in _IN_TEXT.findall(str(error)))
