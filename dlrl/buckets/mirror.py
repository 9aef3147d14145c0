"""Local copies of the small files of a directory in a bucket.

Files that are appended to, or read by libraries that cannot read buckets, are
in a temporary directory of this process. They are pulled when it is made and
whenever the lease of the bucket is taken, and pushed where they would be synced
to disk. Large files stay where they are: `remote` is the URL that a local path
stands for.
"""

import atexit
import dataclasses
import fnmatch
import os
import pathlib
import shutil
import tempfile
from typing import Any

from dlrl.buckets import objects

LOCK = "lock"  # never copied
_PULLED = ("*", "warm_start/*/*")  # what a run or an evaluation reads again


@dataclasses.dataclass
class _Mirror:
  """A local directory and the directory of a bucket that it stands for.

  Attributes:
    url: `gs://BUCKET/PATH`, without a slash at the end.
    root: the local directory.
    generations: of the files, by name, when they were last equal.
    states: what the local files were like then.
  """

  url: str
  root: pathlib.Path
  generations: dict[str, bytes] = dataclasses.field(default_factory=dict)
  states: dict[str, Any] = dataclasses.field(default_factory=dict)


_MIRRORS: dict[str, _Mirror] = {}  # by URL


def local(url: str, refuse: objects.Refuse) -> pathlib.Path:
  """The local copy of a directory in a bucket; made when first asked for.

  Args:
    url: `gs://BUCKET/PATH`; need not exist.
    refuse: makes the error to raise.

  Raises:
    What `refuse` makes, or BucketError: as `objects.names`.
  """
  url = url.rstrip("/")
  if url not in _MIRRORS:
    found = objects.names(url, refuse)
    root = pathlib.Path(tempfile.mkdtemp(prefix="dlrl-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    _MIRRORS[url] = _Mirror(url, root)
    _pull(_MIRRORS[url], found)
  return _MIRRORS[url].root


def pull(root: pathlib.Path, refuse: objects.Refuse, seen: float) -> None:
  """Reads again what has changed since a copy was made.

  Args:
    root: the copy.
    refuse: makes the error to raise, as of `objects.names`.
    seen: seconds since the epoch, given to all files as their time.
  """
  mirror = _at(root)
  assert mirror is not None
  _pull(mirror, objects.names(mirror.url, refuse))
  for name in mirror.generations:
    os.utime(root / name, (seen, seen))
    mirror.states[name] = _state(root / name)


def _pull(mirror: _Mirror, there: list[str]) -> None:
  for name in there:
    # Files that are not copied get their folders, which tell a run that there
    # are checkpoints.
    folders = name.split("/")[:-1][:2]
    mirror.root.joinpath(*folders).mkdir(parents=True, exist_ok=True)
  wanted = [name for name in there if name != LOCK and any(
    fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")
    for pattern in _PULLED)]
  for name in mirror.generations.keys() - set(wanted):
    (mirror.root / name).unlink(missing_ok=True)
    del mirror.generations[name]
  for name in wanted:
    data, generation = objects.get(
      mirror.url, name, mirror.generations.get(name))
    if data is None:
      continue
    (mirror.root / name).write_bytes(data)
    mirror.generations[name] = generation
    mirror.states[name] = _state(mirror.root / name)


def push(path: pathlib.Path) -> None:
  """Writes a file, or the files below a directory, to the bucket.

  Skips files that have not changed, and files outside of local copies.

  Raises:
    objects.ChangedError: another process has written it since.
    objects.BucketError: the bucket cannot be used.
  """
  mirror = _at(path)
  if mirror is None:
    return
  files = [path] if path.is_file() else [
    file for file in sorted(path.rglob("*")) if file.is_file()]
  for file in files:
    name, state = str(file.relative_to(mirror.root)), _state(file)
    if mirror.states.get(name) == state:
      continue
    mirror.generations[name] = objects.put(
      mirror.url, name, file.read_bytes(),
      mirror.generations.get(name) or objects.absent())
    mirror.states[name] = state


def remote(path: str | os.PathLike[str]) -> str:
  """The URL that a path in a copy stands for; other paths as they are."""
  mirror = _at(path)
  if mirror is None:
    return os.fspath(path)
  below = pathlib.Path(path).relative_to(mirror.root)
  return "/".join([mirror.url, *below.parts])


def shown(text: str) -> str:
  """A text with URLs in place of the paths of copies, for people."""
  for mirror in _MIRRORS.values():
    text = text.replace(str(mirror.root), mirror.url)
  return text


def _at(path: str | os.PathLike[str]) -> _Mirror | None:
  there = pathlib.Path(path)
  return next((mirror for mirror in _MIRRORS.values()
               if there.is_relative_to(mirror.root)), None)


def _state(file: pathlib.Path) -> tuple[int, ...]:
  found = file.stat()
  return found.st_ino, found.st_size, found.st_mtime_ns
