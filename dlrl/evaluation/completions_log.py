"""The completions of an evaluation on disk, so that a killed one continues.

    DIR/lock                locked by the process that evaluates
    DIR/settings.json       the settings of the evaluation
    DIR/completions.jsonl   one JSON object a line, appended a batch at a time
"""

import json
import os
import pathlib
import time
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from dlrl import strict
from dlrl.buckets import mirror
from dlrl.runtime import own_files
from dlrl.storage import output_paths
from dlrl.storage import workdir
from dlrl.strict import nested

Record = dict[str, Any]
_SETTINGS, _COMPLETIONS = "settings.json", "completions.jsonl"
_PUSHED_EVERY = 30.0  # seconds; a bucket gets the whole file each time


class CompletionsLog:
  """A file of completions that is read when opened and then appended to.

  Attributes:
    path: the directory.
    records: all completions, in the order of the file. Of several with equal
      length, sample and item, which two processes wrote in former versions,
      the first.
  """

  def __init__(self, directory: str | os.PathLike[str],
               settings: dict[str, Any],
               fits: Callable[[Record], bool] = lambda record: True) -> None:
    """Opens the log in `directory`, or creates both.

    Args:
      directory: an earlier log with the same settings, empty, or absent.
      settings: JSON values; completions depend on all of them.
      fits: whether a record is one of this evaluation.

    Raises:
      strict.FlagError: `directory` holds other files, or completions with other
        settings, of which the message lists the differences; it is in use by
        another process; it cannot be written; or a line is damaged.
    """
    self._fits = fits
    self.path = check(directory)
    with output_paths.reporting("out", directory):
      self.path.mkdir(parents=True, exist_ok=True)
      self._lock = workdir.lock(self.path, "out", "evaluation")
      try:
        _claim(self.path, settings)
        self.records = self._open()
      except BaseException:
        self._lock.close()
        raise
    self._pushed = time.monotonic()

  def _open(self) -> list[Record]:
    fd = own_files.open_fd(
      self.path / _COMPLETIONS, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    self._file = open(fd, "r+b")  # noqa: SIM115  (`close` closes it)
    try:
      whole = self._file.read()
      # A process that was killed while writing leaves an incomplete line.
      end = whole.rfind(b"\n") + 1
      self._file.truncate(end)
      return _distinct(self._parse(whole[:end]))
    except BaseException:
      self._file.close()
      raise

  def _parse(self, text: bytes) -> Iterable[Record]:
    for number, line in enumerate(text.splitlines(), 1):
      try:
        record = own_files.parsed(line)
        if not self._fits(record):
          raise ValueError("not a completion of this evaluation")
      except ValueError as e:
        raise strict.FlagError(
          "out", str(self.path), f"{_COMPLETIONS}:{number} is not a completion "
          f"in JSON ({e}); delete the line, whose completion is then decoded "
          "again") from e
      yield record

  def append(self, records: Iterable[Record]) -> None:
    """Appends records and flushes the file."""
    new = list(records)
    # ASCII only, because `splitlines` splits at Unicode line separators too.
    self._file.write("".join(json.dumps(r) + "\n" for r in new).encode())
    self._file.flush()
    self.records += new
    if time.monotonic() - self._pushed > _PUSHED_EVERY:
      mirror.push(self.path / _COMPLETIONS)
      self._pushed = time.monotonic()

  def close(self) -> None:
    """Closes the file and releases the directory; may be called twice."""
    with self._lock:
      self._file.close()
      mirror.push(self.path / _COMPLETIONS)

  def __enter__(self) -> "CompletionsLog":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()


def check(directory: str | os.PathLike[str]) -> pathlib.Path:
  """The path of a directory that a log may be in; creates nothing.

  Raises:
    strict.FlagError: it cannot be written, or holds other files.
  """
  path = output_paths.directory("out", directory)
  with output_paths.reporting("out", directory):
    names = {p.name for p in path.iterdir()} if path.exists() else set()
  strict.require(
    _SETTINGS in names or all(
      name == "lock" or own_files.is_tmp(name, _SETTINGS) for name in names),
    "out", str(path),
    "is not empty and holds no evaluation; choose another directory",
    strict.FlagError)
  return path


def _claim(path: pathlib.Path, settings: dict[str, Any]) -> None:
  marker = path / _SETTINGS
  if not marker.exists():
    workdir.write_json(marker, settings)
    return
  try:
    there = own_files.read_object(marker)
  except ValueError as e:
    raise strict.FlagError(
      "out", str(path), f"its {_SETTINGS} is not of an evaluation ({e}); "
      "choose another directory") from e
  lines = nested.diff(there, settings)
  strict.require(not lines, "out", str(path), "\n  ".join([
    "holds an evaluation with other settings; choose another directory. "
    "Differences, there -> here:",
    *(line.removeprefix("config.") for line in lines)]), strict.FlagError)


def _distinct(records: Iterable[Record]) -> list[Record]:
  """The first record of each completion."""
  seen: set[tuple[Any, ...]] = set()
  found = []
  for record in records:
    place = tuple(map(record.get, ("length", "sample", "item")))
    if place not in seen or None in place:
      found.append(record)
    seen.add(place)
  return found
