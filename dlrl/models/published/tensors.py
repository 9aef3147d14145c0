"""Our parameters as the tensors of published checkpoints.

A matrix is `[out, in]` there and `[in, out]` here. Each layer and each expert
has tensors of its own there; here these are leading axes of one array. A few
matrices of ours are the rows of one tensor there.
"""

import dataclasses
import itertools
from collections.abc import Mapping

STACKS = ("dense_layers/", "layers/")


@dataclasses.dataclass(frozen=True)
class Piece:
  """A part of one of our parameters, and where it is published.

  Attributes:
    path: of the parameter.
    index: of its leading axes: the layer, and the expert; () if it has none.
    shape: of the part, as it is published.
    name: of the published tensor.
    row: of that tensor, at which the part starts.
  """

  path: str
  index: tuple[int, ...]
  shape: tuple[int, ...]
  name: str
  row: int


def transposed(path: str) -> bool:
  """Tells whether our parameter is the transpose of the published tensor."""
  return path.endswith("/kernel")


def stacked(path: str) -> bool:
  """Tells whether the first axis of our parameter counts layers."""
  return path.startswith(STACKS)


def pieces(
  names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> list[Piece]:
  """Splits parameters into parts that are published, layer by layer.

  Args:
    names: of `families.Family`.
    shapes: shapes of our parameters, by path.
  """
  order = {path: i for i, path in enumerate(names)}
  dense = max((shape[0] for path, shape in shapes.items()
               if path.startswith("dense_layers/")), default=0)
  found: list[Piece] = []
  rows: dict[str, int] = {}
  for path in sorted(
      shapes, key=lambda path: order[path.removeprefix("dense_")]):
    shape, name = shapes[path], names[path.removeprefix("dense_")]
    axes = name.count("{}")
    own = shape[axes:]
    own = own[::-1] if transposed(path) else own
    for index in itertools.product(*map(range, shape[:axes])):
      numbers = list(index)
      if path.startswith("layers/"):
        numbers[0] += dense
      published = name.format(*numbers)
      row = rows.get(published, 0)
      rows[published] = row + own[0]
      found.append(Piece(path, index, own, published, row))
  # Layer by layer, so that few files are needed to read a layer.
  return sorted(found, key=lambda piece: (
    piece.index[0] + dense * piece.path.startswith("layers/")
    if piece.index else -1))


def published(
  names: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
  """The names and shapes of all tensors of a checkpoint.

  Args:
    names: of `families.Family`.
    shapes: shapes of our parameters, by path.
  """
  result: dict[str, tuple[int, ...]] = {}
  for piece in pieces(names, shapes):
    result[piece.name] = (piece.row + piece.shape[0], *piece.shape[1:])
  return result
