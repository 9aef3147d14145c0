"""Stops a run on SIGTERM, which schedulers send some time before they kill.

The step in progress is finished and saved, and the process ends with an exit
code that asks to be started again.
"""

import signal
from types import FrameType
from typing import Any

from dlrl.runtime import processes

EXIT_CODE = 42


class Preempted(BaseException):
  """Ends the process; like KeyboardInterrupt, only `main` handles it."""


class Notice:
  """Listens for SIGTERM while entered.

  Before the first step is finished, nothing can be lost, and SIGTERM raises
  `Preempted` at once. Later it sets a flag that the loop reads after each step.
  If one process of several is told, all learn of it at the same step. JAX's
  preemption service is not used: Orbax also asks it, with step numbers of its
  own, so that the step to stop at could be missed.
  """

  def __init__(self) -> None:
    self._told = False
    self._stepped = False

  def reached(self) -> bool:
    """Whether to save and end now. Call it once after every step.

    All processes of a job must call it; all get the same answer.
    """
    self._stepped = True
    return processes.anywhere(self._told)

  def _tell(self, number: int, frame: FrameType | None) -> None:
    self._told = True  # a repeated signal changes nothing
    if not self._stepped:
      raise Preempted("nothing had to be saved")

  def __enter__(self) -> "Notice":
    self._former: Any = (
      signal.signal(signal.SIGTERM, self._tell) or signal.SIG_DFL)
    return self

  def __exit__(self, *exc: object) -> None:
    signal.signal(signal.SIGTERM, self._former)
