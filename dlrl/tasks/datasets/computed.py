"""Datasets of puzzles that are computed: nothing is downloaded."""

import dataclasses
import hashlib
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from etils import epath

from dlrl.tasks.datasets import checked

Row = checked.Row


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Puzzles(checked.Dataset):
  """Rows of the strings `puzzle` and `solution`, and the int `difficulty`.

  Attributes:
    generate: the rows of a split, in any order, the same at every call.
  """

  generate: Callable[[str], Iterable[Row]]
  columns: Mapping[str, type] = dataclasses.field(default_factory=lambda: {
    "puzzle": str, "solution": str, "difficulty": int})

  def splits(self, placed: epath.Path) -> Mapping[str, Sequence[Row]]:
    """The generated rows of each split."""
    del placed
    return {split: sorted(self.generate(split), key=self.rank)
            for split in self.sha256}

  @staticmethod
  def rank(row: Row) -> tuple[int, str]:
    """The sort key of rows: difficulty, then puzzle."""
    return row["difficulty"], row["puzzle"]

  @staticmethod
  def digest(rows: Iterable[Row]) -> str:
    """SHA-256 of one line for each row, in hex."""
    digest = hashlib.sha256()
    for row in rows:
      line = "{difficulty} {puzzle} {solution}\n".format_map(row)
      digest.update(line.encode())
    return digest.hexdigest()
