"""Warns of checkpoints that take longer to write than the steps between them.
"""

import math
import time
from collections.abc import Callable

from dlrl.runtime import progress

_PATIENCE = 1.0  # seconds that a run may wait without a word


class SavePace:
  """Compares the time of each save with that of the steps after it.

  Args:
    field: the setting of the interval between checkpoints, for the warning.
    every: its value, in steps.
    clock: returns monotonic seconds.
  """

  def __init__(self, field: str, every: int,
               clock: Callable[[], float] = time.monotonic) -> None:
    self._field, self._every, self._clock = field, every, clock
    self._step, self._began = 0, math.inf  # the save before
    self._warned = False

  def wait(self, step: int, wait: Callable[[], None]) -> None:
    """Calls `wait`, which waits for the save before; warns if that was late.

    Warns once, and only after a whole interval: the last checkpoint, or that of
    a run that is told to stop, may follow soon after the one before.

    Args:
      step: the number of finished steps, which the caller saves next.
      wait: waits until the save before is complete.
    """
    asked = self._clock()
    wait()
    now = self._clock()
    took, steps = now - self._began, asked - self._began
    if (now - asked > _PATIENCE and step - self._step >= self._every
        and not self._warned and steps > 0):
      self._warned = True
      enough = math.ceil(self._every * took / steps)
      progress.say(
        f"writing the checkpoint of step {self._step} took {took:.1f} s and "
        f"the {step - self._step} steps after it {steps:.1f} s, so the run "
        f"waited {now - asked:.1f} s for it, and will again: set "
        f"config.{self._field} = {enough} or more")
    self._step, self._began = step, now
