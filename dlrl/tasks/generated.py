"""TFDS datasets whose rows are computed: made on the spot, checked when read.

Nothing is downloaded. A checksum guards the rows when made and when read, so
that the same version is the same rows everywhere.
"""

import abc
import hashlib
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from dlrl.tasks import prepared

Row = prepared.Row
load = prepared.load


def checksum(rows: Iterable[Row]) -> str:
  """SHA-256 of the rows in the given order, in hex."""
  digest = hashlib.sha256()
  for row in rows:
    line = "{difficulty} {puzzle} {solution}\n".format_map(row)
    digest.update(line.encode())
  return digest.hexdigest()


def whole_checksum(builder: type[Puzzles]) -> str:
  """One SHA-256 of those of all splits, in hex."""
  lines = "".join(f"{split} {digest}\n"
                  for split, digest in sorted(builder.SHA256.items()))
  return hashlib.sha256(lines.encode()).hexdigest()


def select(rows: Sequence[Row], difficulty: tuple[int, int],
           known: tuple[int, int], field: str) -> Sequence[Row]:
  """The rows whose difficulty is in the range.

  Args:
    rows: of a split, in the order of `rank`.
    difficulty: the least and the greatest wanted.
    known: the least and the greatest there are.
    field: the config field that `difficulty` came from, for the message.

  Raises:
    strict.ConfigError: no row has such a difficulty.
  """
  low, high = difficulty
  found = [row for row in rows if low <= row["difficulty"] <= high]
  strict.require(bool(found), field, difficulty, "no row matches; difficulties "
                 f"go from {known[0]} to {known[1]}")
  return found


def rank(row: Row) -> tuple[int, str]:
  """What rows are ordered by; TFDS shuffles in a way of its own."""
  return row["difficulty"], row["puzzle"]


class Puzzles(prepared.Dataset, abc.ABC):
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
