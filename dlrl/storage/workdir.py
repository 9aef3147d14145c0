"""The directory of a run: locked by one process, bound to one config.

    workdir/
      lock          locked by the running process; holds its pid
      config.json   the resolved config; a run continues only with an equal one

Other modules write the other files of a run.
"""

import fcntl
import json
import os
import pathlib
import types
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

from dlrl import strict

# Files left by a run that died before it had written its config.
_OWN = {"lock", "config.json.tmp"}


def claim(path: str | os.PathLike[str], cfg_json: dict[str, Any],
          free: Collection[str] = (),
          defaults: Mapping[str, Any] = types.MappingProxyType({})
          ) -> "Workdir":
  """Creates the directory `path` if needed and reserves it for this process.

  In a job of several processes, process 0 claims. Only local paths are
  supported: object stores have no locks that the kernel releases. For `gs://`
  paths `_lock` would need a replacement, and `write_text` an atomic upload.

  Args:
    path: the directory; `~` is expanded.
    cfg_json: the config, from `strict.to_json`.
    free: its keys whose values may differ from those of the first start.
    defaults: the default config. A run that is older than a setting had its
      default.

  Raises:
    strict.FlagError: the directory cannot be written, is in use by another
      process, or holds other files or a run with another config; the message
      lists all differences.
  """
  text = os.fspath(path)
  strict.require(bool(text), "workdir", text, "give a directory: --workdir=DIR",
                 strict.FlagError)
  strict.require("://" not in text, "workdir", text,
                 "only local directories are supported; mount the bucket",
                 strict.FlagError)
  root = pathlib.Path(text).expanduser().absolute()
  try:
    root.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in root.iterdir()}
    # Before locking, so that nothing is added to a foreign directory.
    _refuse_foreign(root, names)
    fd = _lock(root)
  except OSError as e:
    raise strict.FlagError(
      "workdir", text, f"not a directory that can be written ({e.strerror}); "
      "choose another --workdir") from e
  try:
    resumed = (root / "config.json").exists()
    if resumed:
      _compare(root, cfg_json, free, defaults)
    else:
      write_json(root / "config.json", cfg_json)
  except BaseException:
    os.close(fd)
    raise
  return Workdir(root, resumed, fd)


class Workdir:
  """A claimed directory; `close` or the end of the process releases it.

  Attributes:
    path: the directory.
    resumed: whether an earlier process claimed it with the same config.
  """

  def __init__(self, path: pathlib.Path, resumed: bool, fd: int) -> None:
    self.path, self.resumed, self._fd = path, resumed, fd

  def close(self) -> None:
    """Releases the claim; may be called twice."""
    if self._fd >= 0:
      os.close(self._fd)
      self._fd = -1

  def __enter__(self) -> "Workdir":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
  """Writes `obj` as JSON, atomically; see `write_text`."""
  write_text(path, json.dumps(obj, indent=2) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Replaces the file atomically; the text is on disk when this returns."""
  path = pathlib.Path(path)
  tmp = path.with_name(path.name + ".tmp")
  with open(tmp, "w", encoding="utf-8") as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  os.replace(tmp, path)
  # The rename changes the directory, which has to be synced by itself.
  fd = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)


def _refuse_foreign(root: pathlib.Path, names: set[str]) -> None:
  if "config.json" not in names and names - _OWN:
    found = ", ".join(sorted(names - _OWN)[:3])
    raise strict.FlagError(
      "workdir", str(root), f"holds files that are not of a run ({found}); "
      "choose an empty or new --workdir")


def _lock(root: pathlib.Path) -> int:
  # The kernel releases the lock with the open file, however the process ends.
  # Python does not pass the descriptor on to child processes.
  fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
  except BlockingIOError as e:
    holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
    os.close(fd)
    raise strict.FlagError(
      "workdir", str(root), f"in use by another run (pid {holder}); wait for "
      "it, end it, or choose another --workdir") from e
  except BaseException:
    os.close(fd)
    raise
  return fd


def _filled(cfg: dict[str, Any], defaults: Mapping[str, Any]
            ) -> dict[str, Any]:
  """`cfg` with the settings that it lacks."""
  return {**defaults, **{
    key: _filled(value, defaults[key])
    if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    else value for key, value in cfg.items()}}


def _compare(root: pathlib.Path, cfg_json: dict[str, Any],
             free: Collection[str], defaults: Mapping[str, Any]) -> None:
  try:
    old = json.loads((root / "config.json").read_text(encoding="utf-8"))
  except ValueError:
    old = None
  strict.require(isinstance(old, dict), "workdir", str(root),
                 "its config.json is not of a run; choose another --workdir",
                 strict.FlagError)
  before, now = ({k: v for k, v in cfg.items() if k not in free}
                 for cfg in (_filled(old, defaults), cfg_json))
  lines = strict.diff(before, now)
  strict.require(not lines, "workdir", str(root), "\n  ".join([
    "belongs to a run with another config; choose another --workdir, or go "
    "back to the values on the left:", *lines]), strict.FlagError)
