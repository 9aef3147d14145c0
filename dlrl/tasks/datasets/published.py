"""Datasets whose rows come from public files, downloaded or put there by hand.

A machine without a network needs the files in `downloads/manual` below
`task.data_dir`, by the names in the builders. Either way their SHA-256 has to
be the public one's.
"""

import abc
import dataclasses
import hashlib
import http.client
import json
import urllib.request
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from etils import epath

from dlrl import strict
from dlrl.tasks.datasets import checked

_HELD_OUT = 15  # one of so many train rows is for validation
_PATIENCE_S = 30  # seconds in which nothing arrives
_LARGEST = 64 << 20  # bytes of a file that are read


@dataclasses.dataclass(frozen=True)
class File:
  """A public file.

  Attributes:
    name: where users put it, below `downloads/manual`.
    url: where it is downloaded from if they have not.
    sha256: in hex, of each form of it that will do.
  """

  name: str
  url: str
  sha256: tuple[str, ...]


class Published(checked.Dataset, abc.ABC):
  """Rows with an int `index`, their order in the file, and `difficulty`.

  Attributes:
    FILES: by a name of ours.
    DIFFICULTIES: the least and the greatest.
  """

  FILES: Mapping[str, File]
  DIFFICULTIES: tuple[int, int] = (1, 1)

  @abc.abstractmethod
  def parse(self, contents: Mapping[str, bytes]
            ) -> Mapping[str, list[checked.Row]]:
    """Rows by split, from the contents of the `FILES`."""

  def splits(self) -> Mapping[str, Sequence[checked.Row]]:
    """Of the files; raises `strict.ConfigError` if one cannot be had."""
    return self.parse({key: _content(file, self.placed / file.name)
                       for key, file in self.FILES.items()})

  @staticmethod
  def rank(row: checked.Row) -> int:
    """The order in the file."""
    return row["index"]

  @staticmethod
  def checksum(rows: Iterable[checked.Row]) -> str:
    """SHA-256 of the rows in the given order, in hex."""
    digest = hashlib.sha256()
    for row in rows:
      digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def whole_checksum(builder: type[Published]) -> str:
  """One SHA-256 of those of its files and of the rows of all splits, in hex."""
  parts = [builder.SHA256, {key: file.sha256
                            for key, file in builder.FILES.items()}]
  return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def load(builder: type[Published], data_dir: str, split: str,
         difficulty: tuple[int, int], *, field: str = "difficulty"
         ) -> list[checked.Row]:
  """The split's rows of some difficulty, prepared first if that is needed.

  Args:
    builder: of the dataset.
    data_dir: of TFDS; `~` is expanded.
    split: `train`, `validation` or `test`.
    difficulty: the least and the greatest.
    field: the config field that `difficulty` came from, for the message.

  Returns:
    Rows with the builder's columns, in the order of the public file.

  Raises:
    strict.ConfigError: there is no such split, no row of that difficulty, a
      file that cannot be had, or a directory that cannot be used.
  """
  strict.require(split in builder.SHA256, "task.name", builder.name,
                 f"has no {split} rows, only {', '.join(builder.SHA256)}")
  rows = checked.load(builder, data_dir, split)
  return checked.select(rows, difficulty, builder.DIFFICULTIES, field)


def json_lines(content: bytes) -> list[Any]:
  """The values of a JSONL file."""
  return [json.loads(line) for line in content.split(b"\n") if line.strip()]


def cut(rows: Sequence[checked.Row], column: str
        ) -> dict[str, list[checked.Row]]:
  """`train` and `validation`, by the text in `column` alone.

  So a row that two versions of a dataset share is in the same part of both.
  """
  parts: dict[str, list[checked.Row]] = {"train": [], "validation": []}
  for row in rows:
    digest = hashlib.sha256(row[column].encode()).digest()
    held_out = int.from_bytes(digest[:8], "big") % _HELD_OUT == 0
    parts["validation" if held_out else "train"].append(row)
  return parts


def _content(file: File, placed: epath.Path) -> bytes:
  try:
    content = placed.read_bytes() if placed.exists() else _download(file.url)
  except (OSError, http.client.HTTPException) as error:
    raise strict.ConfigError(
      "task.data_dir", str(placed), f"{file.url} could not be downloaded "
      f"({error}); put the file here") from error
  found = hashlib.sha256(content).hexdigest()
  strict.require(
    found in file.sha256, "task.data_dir",
    str(placed) if placed.exists() else file.url,
    f"is not the known file: its SHA-256 is {found}, not "
    f"{' or '.join(file.sha256)}")
  return content


# TFDS's own would try for minutes where there is no network.
def _download(url: str) -> bytes:
  with urllib.request.urlopen(url, timeout=_PATIENCE_S) as response:
    return response.read(_LARGEST)
