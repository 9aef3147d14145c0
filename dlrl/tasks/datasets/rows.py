"""Rows of a dataset in little more memory than their texts take."""

import array
import dataclasses
import json
import operator
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import overload

import numpy as np

Row = dict[str, Any]  # of plain Python values


class Rows(Sequence[Row]):
  """Rows with an int `difficulty`, in the order of a sort key.

  Each is kept as JSON, in one text, and made anew whenever it is asked for: as
  Python objects a million short rows take hundreds of megabytes.

  Args:
    rows: of strings, ints and lists of strings.
    rank: the sort key.

  Attributes:
    difficulty: int32 [n], of each row.
  """

  def __init__(self, rows: Iterable[Row], rank: Callable[[Row], Any]) -> None:
    text, ends, ranks = bytearray(), array.array("q", [0]), []
    difficulty = array.array("i")
    for row in rows:
      text += json.dumps(row, ensure_ascii=False).encode()
      ends.append(len(text))
      ranks.append(rank(row))
      difficulty.append(row["difficulty"])
    self._text = bytes(text)
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    self._places = np.stack([ends[:-1], ends[1:]], 1)[order].reshape(-1, 2)
    self.difficulty = np.array(difficulty, np.int32)[order]

  def __len__(self) -> int:
    return len(self._places)

  @overload
  def __getitem__(self, position: int) -> Row: ...
  @overload
  def __getitem__(self, position: slice) -> list[Row]: ...
  def __getitem__(self, position: int | slice) -> Row | list[Row]:
    if isinstance(position, slice):
      return [self[i] for i in range(len(self))[position]]
    start, end = self._places[operator.index(position)].tolist()
    row: Row = json.loads(self._text[start:end])
    return row

  def __iter__(self) -> Iterator[Row]:
    return (self[i] for i in range(len(self)))


@dataclasses.dataclass(frozen=True, eq=False)
class Selected(Sequence[Row]):
  """The examples of some of a dataset's rows, made when they are asked for.

  Attributes:
    rows: all rows of a split.
    positions: int64 [n], of the rows that are selected.
    example: makes an example of a row with its `index`.
  """

  rows: Rows
  positions: np.ndarray
  example: Callable[[Row], Row]

  def __len__(self) -> int:
    return len(self.positions)

  @overload
  def __getitem__(self, position: int) -> Row: ...
  @overload
  def __getitem__(self, position: slice) -> "Selected": ...
  def __getitem__(self, position: int | slice) -> "Row | Selected":
    if isinstance(position, slice):
      return dataclasses.replace(self, positions=self.positions[position])
    place = int(self.positions[operator.index(position)])
    row = self.rows[place]
    return self.example({**row, "index": row.get("index", place)})
