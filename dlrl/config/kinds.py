"""Types and values that several sections share."""

import enum

from dlrl.strict import Knobs

Range = tuple[int, int]
ALL: Range = (0, 2**31 - 1)  # every difficulty
Names = tuple[str, ...]
Weights = tuple[float, ...]
Counts = tuple[int, ...]
NO_KNOBS = Knobs()
SPLITS = ("validation", "test")


class Restart(enum.StrEnum):
  """Whether a setting may have another value when a run goes on."""

  FIXED = "no"
  ROUNDING = "up to rounding"
  FREE = "yes"  # no number that is trained changes
  LENGTH = "to steps not made yet"
