"""Being told to stop: SIGTERM, which schedulers send a while before they kill.

What a run has done since its last checkpoint is then saved at the end of the
step, and the process ends with a code that asks to be started again.
"""

import itertools
import signal
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 42
# Of this process, as of all others of its job: loops may follow one another.
_SYNC_POINTS = itertools.count(1)


class Preempted(BaseException):
  """Ends the process; like an interrupt, nothing below `main` handles it."""


class Notice:
  """Listens for SIGTERM while it is entered.

  Until the loop that entered it has finished a step, nothing would be lost and
  SIGTERM raises `Preempted` wherever the program is; from then on it waits for
  the loop to ask. With `jax.distributed`, where one process of many may be
  told, it is JAX that listens, and all learn of it at the same step.
  """

  def __init__(self) -> None:
    self._told = False
    self._stepped = False

  def reached(self) -> bool:
    """Whether to save and end now; to be asked after every step, once.

    All processes of a job have to ask, and get the same answer.
    """
    self._stepped = True
    if jax.distributed.is_initialized():
      return multihost_utils.reached_preemption_sync_point(next(_SYNC_POINTS))
    return self._told

  def _tell(self, number: int, frame: FrameType | None) -> None:
    self._told = True  # to be told once more changes nothing
    if not self._stepped:
      raise Preempted("nothing has been done that is not saved")

  def __enter__(self) -> "Notice":
    self._former: Any = None
    # Not by the number of processes: to ask for it would make the devices.
    if not jax.distributed.is_initialized():
      self._former = (
        signal.signal(signal.SIGTERM, self._tell) or signal.SIG_DFL)
    return self

  def __exit__(self, *exc: object) -> None:
    if self._former is not None:
      signal.signal(signal.SIGTERM, self._former)
