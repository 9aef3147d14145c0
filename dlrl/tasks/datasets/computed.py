"""TFDS datasets whose rows are computed: made on the spot, checked when read.

Nothing is downloaded. A checksum guards the rows when made and when read, so
that the same version is the same rows everywhere.
"""

import abc
import hashlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from dlrl.tasks.datasets import checked

# What a module of such rows needs of `prepared`.
Row = checked.Row


def checksum(rows: Iterable[Row]) -> str:
  """SHA-256 of the rows in the given order, in hex."""
  digest = hashlib.sha256()
  for row in rows:
    line = "{difficulty} {puzzle} {solution}\n".format_map(row)
    digest.update(line.encode())
  return digest.hexdigest()


def rank(row: Row) -> tuple[int, str]:
  """What rows are ordered by; TFDS shuffles in a way of its own."""
  return row["difficulty"], row["puzzle"]


class Puzzles(checked.Dataset, abc.ABC):
  """Rows of the texts `puzzle` and `solution`, and the int `difficulty`.

  A subclass says `VERSION`, `DESCRIPTION`, `SHA256` by split, and `rows`.
  """

  COLUMNS: Mapping[str, type] = {
    "puzzle": str, "solution": str, "difficulty": int}
  checksum = staticmethod(checksum)
  rank = staticmethod(rank)

  @abc.abstractmethod
  def rows(self, split: str) -> Sequence[Row]:
    """The split's rows, in the order of `rank`."""

  def splits(self) -> Mapping[str, Sequence[Row]]:
    """Of `rows`."""
    return {split: self.rows(split) for split in self.SHA256}


def numbered(builder: type[Puzzles], data_dir: str, split: str) -> list[Row]:
  """`prepared.load` with `index`, which identifies a row in its split."""
  return [{**row, "index": index} for index, row in enumerate(
    checked.load(builder, data_dir, split))]
