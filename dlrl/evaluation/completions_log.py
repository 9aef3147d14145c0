"""The completions of an evaluation on disk, so that a killed one continues.

    DIR/settings.json       the settings of the evaluation
    DIR/completions.jsonl   one JSON object a line, appended a batch at a time
"""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

from dlrl import strict
from dlrl.storage import workdir

Record = dict[str, Any]


class CompletionsLog:
  """A file of completions that is read when opened and then appended to.

  Attributes:
    path: the directory.
    records: all completions, in the order of the file.
  """

  def __init__(self, directory: str | os.PathLike[str],
               settings: dict[str, Any]) -> None:
    """Opens the log in `directory`, or creates both.

    Args:
      directory: an earlier log with the same settings, empty, or absent.
      settings: JSON values; completions depend on all of them.

    Raises:
      strict.FlagError: `directory` holds other files, or completions with other
        settings; the message lists the differences.
    """
    self.path = pathlib.Path(directory).expanduser()
    _claim(self.path, settings)
    file = self.path / "completions.jsonl"
    file.touch()
    whole = file.read_bytes()
    # A process that was killed while writing leaves an incomplete line.
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
      os.truncate(file, end)
    self.records: list[Record] = [
      json.loads(line) for line in whole[:end].splitlines()]
    self._file = file.open("a", encoding="utf-8")

  def append(self, records: Iterable[Record]) -> None:
    """Appends records and flushes the file."""
    new = list(records)
    # ASCII only, because `splitlines` splits at Unicode line separators too.
    self._file.write("".join(json.dumps(r) + "\n" for r in new))
    self._file.flush()
    self.records += new

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def __enter__(self) -> "CompletionsLog":
    return self

  def __exit__(self, *exc: object) -> None:
    self.close()


def _claim(path: pathlib.Path, settings: dict[str, Any]) -> None:
  marker = path / "settings.json"
  if marker.exists():
    lines = strict.diff(json.loads(marker.read_text()), settings)
    strict.require(not lines, "out", str(path), "\n  ".join([
      "holds an evaluation with other settings; choose another directory. "
      "Differences, there -> here:",
      *(line.removeprefix("config.") for line in lines)]), strict.FlagError)
    return
  strict.require(
    not path.exists() or (path.is_dir() and not any(path.iterdir())), "out",
    str(path), "is not empty and holds no evaluation; choose another directory",
    strict.FlagError)
  path.mkdir(parents=True, exist_ok=True)
  workdir.write_json(marker, settings)
