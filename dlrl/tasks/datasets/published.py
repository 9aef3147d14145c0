"""Datasets whose rows come from public files, downloaded or put there by hand.

A machine without a network needs the files in `downloads/manual` below
`task.data_dir`, by the names in `files`. Either way they are used only if their
SHA-256 is that of the public file.
"""

import dataclasses
import hashlib
import http.client
import json
import urllib.request
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from etils import epath

from dlrl import strict
from dlrl.tasks.datasets import checked

# d1's repository (arXiv 2504.12216), whose test sets later papers evaluate.
D1_URL = ("https://raw.githubusercontent.com/dllm-reasoning/d1/"
          "837888f22c21a5da91a0af2b0d7b19e81d9b47ec/dataset/")
_HELD_OUT = 15  # one in 15 train rows goes to validation
_PATIENCE_S = 30  # a download is given up after so long without a byte
_LARGEST = 64 << 20  # bytes read of a file


@dataclasses.dataclass(frozen=True)
class File:
  """A public file.

  Attributes:
    name: where users put it, below `downloads/manual`.
    url: where it is downloaded from otherwise.
    sha256: in hex, of each form of the file that is accepted.
  """

  name: str
  url: str
  sha256: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Published(checked.Dataset):
  """Rows of public files, with their position in the file as `index`.

  Attributes:
    files: by a name of ours.
    parse: makes the rows of each split of the contents of `files`.
  """

  files: Mapping[str, File]
  parse: Callable[[Mapping[str, bytes]], Mapping[str, list[checked.Row]]]
  difficulties: tuple[int, int] = (1, 1)

  @property
  def origin(self) -> str:
    """Name, version and the checksums of the files."""
    return " ".join([super().origin, *(
      digest for key in sorted(self.files)
      for digest in self.files[key].sha256)])

  def splits(self, placed: epath.Path) -> Mapping[str, Sequence[checked.Row]]:
    """The rows of the files; raises `strict.ConfigError` if one is missing."""
    return self.parse({key: _content(file, placed / file.name)
                       for key, file in self.files.items()})

  @staticmethod
  def rank(row: checked.Row) -> int:
    """The sort key of rows: the order in the file."""
    return row["index"]

  @staticmethod
  def digest(rows: Iterable[checked.Row]) -> str:
    """SHA-256 of one JSON object for each row, in hex."""
    digest = hashlib.sha256()
    for row in rows:
      digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def json_lines(content: bytes) -> list[Any]:
  """The values of a JSONL file."""
  return [json.loads(line) for line in content.split(b"\n") if line.strip()]


def cut(rows: Sequence[checked.Row], column: str
        ) -> dict[str, list[checked.Row]]:
  """Cuts rows into `train` and `validation` by the text in `column` only.

  A row that two versions of a dataset share is then in the same part of both.
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


# Not TFDS's download manager, which tries for minutes without a network.
def _download(url: str) -> bytes:
  with urllib.request.urlopen(url, timeout=_PATIENCE_S) as response:
    return response.read(_LARGEST)
