"""Completions in a small table, for the terminal and elsewhere.

They are texts of a model. In a table, nothing of a text leaves its cell.
"""

import math
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import rich.cells

from dlrl.runtime import terminal

_FIRST = 8  # columns of the rewards
_CUT = "..."


class Sample(NamedTuple):
  """A completion.

  Attributes:
    prompt: what was asked.
    completion: the answer.
    reward: NaN if it is not known.
  """

  prompt: str
  completion: str
  reward: float


def table(samples: Sequence[Sample], width: int | None = None
          ) -> Iterator[str]:
  """Lines: each prompt, and below it its completions, escaped.

  Args:
    samples: those of a prompt follow each other.
    width: columns of a line, at least 20. Of longer texts the end is shown,
      where the question and the answer are. None: all is shown.
  """
  room = None if width is None else width - _FIRST - 2
  asked = None
  yield f"{'reward':>{_FIRST}}  completion"
  for sample in samples:
    if sample.prompt != asked:
      asked = sample.prompt
      yield f"{'prompt':>{_FIRST}}  {_cell(asked, room)}"
    reward = "unknown" if math.isnan(sample.reward) else f"{sample.reward:.4g}"
    yield f"{reward:>{_FIRST}}  {_cell(sample.completion, room)}"


def _cell(text: str, room: int | None) -> str:
  """The end of a text, in at most `room` columns."""
  shown = terminal.escaped(text)
  if room is None or rich.cells.cell_len(shown) <= room >= len(shown):
    return shown
  # By characters first: any number of accents takes no column.
  shown = shown[len(_CUT) - room:]
  while rich.cells.cell_len(shown) > room - len(_CUT):
    shown = shown[1:]
  return _CUT + shown
