"""Completions of an evaluation, one JSON object a line, kept across kills.

    DIR/settings.json       what they are completions of
    DIR/completions.jsonl   the completions, appended a batch at a time
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
  """What a directory holds, and what is added to it.

  Attributes:
    records: all of them, in the order of the file.
  """

  def __init__(self, directory: str | os.PathLike[str],
               settings: dict[str, Any]):
    """Opens, or creates, the log of these settings.

    Args:
      directory: created if absent.
      settings: JSON.

    Raises:
      strict.ConfigError: it holds something else, or completions of other
        settings; lists the differences.
    """
    self.path = pathlib.Path(directory).expanduser()
    _claim(self.path, settings)
    file = self.path / "completions.jsonl"
    file.touch()
    whole = file.read_bytes()
    # A process killed while it wrote leaves a part of a line.
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
      os.truncate(file, end)
    self.records: list[Record] = [
      json.loads(line) for line in whole[:end].splitlines()]
    self._file = file.open("a", encoding="utf-8")

  def append(self, records: Iterable[Record]) -> None:
    """Adds records; they are in the file when this returns."""
    new = list(records)
    # ASCII: a completion's line separators would be read as ends of lines.
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
      "holds an evaluation with other settings; take another --out. There and "
      "here:", *(line.removeprefix("config.") for line in lines)]))
    return
  strict.require(
    not path.exists() or (path.is_dir() and not any(path.iterdir())), "out",
    str(path), "is not empty and holds no evaluation; take another --out")
  path.mkdir(parents=True, exist_ok=True)
  workdir.write_json(marker, settings)
