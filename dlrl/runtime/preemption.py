"""Being told to stop: SIGTERM, which schedulers send a while before they kill.

What a run has done since its last checkpoint is then saved at the end of the
step, and the process ends with a code that asks to be started again.
"""

import signal
from types import FrameType
from typing import Any

from dlrl.runtime import processes

EXIT_CODE = 42


class Preempted(BaseException):
  """Ends the process; like an interrupt, nothing below `main` handles it."""


class Notice:
  """Listens for SIGTERM while it is entered.

  Until the loop that entered it has finished a step, nothing would be lost and
  SIGTERM raises `Preempted` wherever the program is; from then on it waits for
  the loop to ask. If one process of many is told, all learn of it at the same
  step. (Not by JAX's preemption service, which Orbax asks, too, with numbers of
  its own: the step to stop at could be missed.)
  """

  def __init__(self) -> None:
    self._told = False
    self._stepped = False

  def reached(self) -> bool:
    """Whether to save and end now; to be asked after every step, once.

    All processes of a job have to ask, and get the same answer.
    """
    self._stepped = True
    return processes.anywhere(self._told)

  def _tell(self, number: int, frame: FrameType | None) -> None:
    self._told = True  # to be told once more changes nothing
    if not self._stepped:
      raise Preempted("nothing has been done that is not saved")

  def __enter__(self) -> "Notice":
    self._former: Any = (
      signal.signal(signal.SIGTERM, self._tell) or signal.SIG_DFL)
    return self

  def __exit__(self, *exc: object) -> None:
    signal.signal(signal.SIGTERM, self._former)
