"""Types and values that several sections share."""

from dlrl.strict import Knobs

Range = tuple[int, int]
ALL: Range = (0, 2**31 - 1)  # every difficulty
Names = tuple[str, ...]
Weights = tuple[float, ...]
Counts = tuple[int, ...]
NO_KNOBS = Knobs()
SPLITS = ("validation", "test")
