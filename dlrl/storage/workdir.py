"""The directory of a run: locked by one process, bound to one config.

    workdir/
      lock          locked by the running process; holds its pid
      config.json   the resolved config of the last start; once a step is made,
                    a run goes on only with one that differs where it may

Other modules write the other files of a run.
"""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import re
import types
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

from dlrl import strict
from dlrl.buckets import lease
from dlrl.buckets import mirror
from dlrl.buckets import objects
from dlrl.runtime import own_files
from dlrl.runtime import parent_process
from dlrl.runtime import progress
from dlrl.runtime import terminal
from dlrl.storage import output_paths
from dlrl.strict import nested


def claim(path: str | os.PathLike[str], cfg_json: dict[str, Any],
          free: Collection[str] = (),
          defaults: Mapping[str, Any] = types.MappingProxyType({})
          ) -> "Workdir":
  """Creates the directory `path` if needed and reserves it for this process.

  A run of which no step was made, see `begun`, goes on with any config: all of
  it is still to come.

  In a job of several processes, process 0 claims.

  Args:
    path: the directory; `~` is expanded. Of `gs://BUCKET/PATH`, a local copy is
      claimed, and a lease there.
    cfg_json: the config, from `strict.to_json`.
    free: its keys, with dots in nested ones, whose values may differ from those
      of the last start.
    defaults: the default config. A run that is older than a setting had its
      default.

  Raises:
    strict.FlagError: the directory cannot be written, is in use by another
      process, or holds other files or a run with another config; the message
      lists all differences.
  """
  text = os.fspath(path)
  root = output_paths.path("workdir", text)
  try:
    root.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in root.iterdir()}
    # Before locking, so that nothing is added to a foreign directory.
    _refuse_foreign(root, names)
    held = lock(root, "workdir", "run")
  except OSError as e:
    raise strict.FlagError(
      "workdir", text, "not a directory that can be written "
      f"({output_paths.explained(e)}); choose another --workdir") from e
  try:
    resumed, changed = (root / "config.json").exists(), {}
    if resumed:
      changed = _compare(root, cfg_json, free, defaults)
    else:
      write_json(root / "config.json", cfg_json)
  except BaseException:
    held.close()
    raise
  return Workdir(root, resumed, changed, held)


class Workdir:
  """A claimed directory; `close` or the end of the process releases it.

  Attributes:
    path: the directory.
    resumed: whether an earlier process claimed it.
    changed: what its config differs in, by dotted names: (old, new) values.
      `config.json` still has the old ones.
  """

  def __init__(self, path: pathlib.Path, resumed: bool,
               changed: dict[str, tuple[Any, Any]],
               held: contextlib.ExitStack) -> None:
    self.path, self.resumed, self.changed = path, resumed, changed
    self._held = held

  def close(self) -> None:
    """Releases the claim; may be called twice."""
    self._held.close()

  def __enter__(self) -> "Workdir":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()


def write_json(path: str | os.PathLike[str], obj: Any) -> None:
  """Writes `obj` as JSON, atomically; see `write_text`."""
  write_text(path, json.dumps(obj, indent=2) + "\n")


def write_text(path: str | os.PathLike[str], text: str) -> None:
  """Replaces the file atomically; see `own_files.replace`.

  In the local copy of a directory in a bucket, also there.
  """
  own_files.replace(path, text.encode())
  mirror.push(pathlib.Path(path))


def _refuse_foreign(root: pathlib.Path, names: set[str]) -> None:
  if "config.json" in names:
    return
  # Left by a run that died before it had written its config; the last name is
  # of older versions.
  foreign = [name for name in sorted(names) if not (
    name in ("lock", "config.json.tmp")
    or own_files.is_tmp(name, "config.json"))]
  if foreign:
    found = ", ".join(foreign[:3])
    raise strict.FlagError(
      "workdir", str(root), f"holds files that are not of a run ({found}); "
      "choose an empty or new --workdir")


def lock(root: pathlib.Path, flag: str, holder: str) -> contextlib.ExitStack:
  """Locks `root` by its file `lock`, which then holds this process's id.

  A local copy of a directory in a bucket is then brought up to date.

  Args:
    root: an existing directory.
    flag: names it in messages.
    holder: what usually holds the lock, "run".

  Returns:
    Closing it, or the end of the process, releases the lock.

  Raises:
    strict.FlagError: another process has it.
    OSError: it cannot be opened or written.
    objects.BucketError: the bucket cannot be used.
  """
  held = contextlib.ExitStack()
  url = mirror.remote(root)
  if objects.named(url):
    refuse = functools.partial(strict.FlagError, flag, url)
    seen = held.enter_context(lease.held(url, refuse, progress.say, _lost))
    try:
      mirror.pull(root, refuse, seen)
    except BaseException:
      held.close()
      raise
    return held
  # The kernel releases the lock with the open file, however the process ends.
  # Python does not pass the descriptor on to child processes.
  fd = own_files.open_fd(root / "lock", os.O_RDWR | os.O_CREAT)
  try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(fd, 0)
    os.write(fd, f"{os.getpid()}\n".encode())
  except BlockingIOError as e:
    pid = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
    os.close(fd)
    raise strict.FlagError(
      flag, str(root), f"in use by another {holder} (pid {pid}); wait for "
      f"it, end it, or choose another --{flag}") from e
  except BaseException:
    os.close(fd)
    raise
  held.callback(os.close, fd)
  return held


def _lost(reason: str) -> None:
  terminal.show(f"dlrl: {reason}", error=True)
  # Not an exception: what the other threads are writing has to end as well.
  os._exit(parent_process.LOST)


def begun(root: pathlib.Path) -> bool:
  """Whether a step of a run is logged or saved, other than its warm start's.

  Before that, nothing depends on its config but row 0, the first evaluation.
  """
  saved = root / "checkpoints"
  if saved.is_dir() and any(
      re.match(r"[0-9]+(\.damaged|$)", path.name) for path in saved.iterdir()):
    return True
  try:
    rows = own_files.read(root / "metrics.jsonl")
  except FileNotFoundError:
    return False
  except OSError:
    return True
  # Damaged lines count: whoever continues the run is told of them.
  return any(not line.startswith(b'{"step": 0,')
             for line in rows.split(b"\n")[:-1])  # the last is incomplete


def _filled(cfg: dict[str, Any], defaults: Mapping[str, Any]
            ) -> dict[str, Any]:
  """`cfg` with the settings that it lacks."""
  return {**defaults, **{
    key: _filled(value, defaults[key])
    if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    else value for key, value in cfg.items()}}


def _compare(root: pathlib.Path, cfg_json: dict[str, Any],
             free: Collection[str], defaults: Mapping[str, Any]
             ) -> dict[str, tuple[Any, Any]]:
  try:
    old = own_files.read_object(root / "config.json")
  except ValueError as e:
    raise strict.FlagError(
      "workdir", str(root), f"its config.json is not of a run ({e}); choose "
      "another --workdir") from e
  changed = nested.differences(_filled(old, defaults), cfg_json)
  lines = [f"config.{name}: {a!r} -> {b!r}" for name, (a, b) in changed.items()
           if name not in free]
  strict.require(not lines or not begun(root), "workdir", str(root),
                 "\n  ".join([
    "belongs to a run with another config; choose another --workdir, or go "
    "back to the values on the left:", *lines]), strict.FlagError)
  return changed
