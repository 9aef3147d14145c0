"""A parent process that waits for the working one and reports how it ended.

When one process of a job dies, JAX aborts the others from a background thread:
no handler and no `finally` runs, and the exit code looks like any crash. So
each process of a job is two. The parent forks before JAX has created devices or
threads, passes signals on, and turns an abort into a message and an exit code
that schedulers can recognize.
"""

import ctypes
import os
import signal

from dlrl.runtime import terminal

LOST = 44  # exit code: another process has ended or is out of reach
MESSAGE = (
  "dlrl: another process of the job has ended or cannot be reached, so this "
  "one cannot go on. The log of the process that ended first says why. The "
  "same command continues.")
_PR_SET_PDEATHSIG = 1


def split() -> None:
  """Forks: returns in the child, while the parent waits and ends with it.

  The parent ends with the child's exit code, with `LOST` if the child was
  aborted, or with 128 + n if signal n killed the child. If the parent is
  killed, the child is, too. Call this before anything starts threads.
  """
  parent = os.getpid()
  child = os.fork()
  if child:
    os._exit(_wait(child))
  # Ctrl-C in a terminal reaches only the parent, which passes it on once.
  os.setpgid(0, 0)
  follow(signal.SIGKILL)
  if os.getppid() != parent:  # it died before prctl
    os._exit(LOST)


def follow(number: int) -> None:
  """Has this process get a signal as soon as its parent has ended.

  Nothing happens where the system has no such call: all but Linux.
  """
  libc = ctypes.CDLL(None)
  if hasattr(libc, "prctl"):
    libc.prctl(_PR_SET_PDEATHSIG, number)


def _wait(child: int) -> int:
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  if code == -signal.SIGABRT:
    terminal.show(MESSAGE, error=True)
    return LOST
  return code if code >= 0 else 128 - code
