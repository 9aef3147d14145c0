"""A process that waits for the real one, and says how it ended.

When a process of a job dies, JAX ends the others from a thread of its own, by
`abort`: no handler and no `finally` of theirs runs, and the exit code is that
of any crash. So a process of a job is two. The guard forks before JAX has made
devices or threads, passes signals on, and turns an abort into a message and a
code that schedulers can tell from others.
"""

import ctypes
import os
import signal
import sys

LOST = 44  # exit code: another process has ended or is out of reach
MESSAGE = (
  "dlrl: another process of the job has ended or cannot be reached, and so "
  "this one cannot go on; the log of the one that ended first says why. The "
  "same command continues.")
_PR_SET_PDEATHSIG = 1


def split() -> None:
  """Returns in a child process; the caller's process waits, and ends with it.

  It ends with the child's exit code; with `LOST` if the child was aborted; with
  128 + n if it was killed by signal n. Killed itself, it takes the child along.
  Call it before anything starts threads.
  """
  guard = os.getpid()
  child = os.fork()
  if child:
    os._exit(_wait(child))
  # A terminal's Ctrl-C comes to the guard alone, which passes it on: once.
  os.setpgid(0, 0)
  libc = ctypes.CDLL(None)
  if hasattr(libc, "prctl"):  # Linux
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != guard:  # it died before that
    os._exit(LOST)


def _wait(child: int) -> int:
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(child, number))
  code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  if code == -signal.SIGABRT:
    print(MESSAGE, file=sys.stderr, flush=True)
    return LOST
  return code if code >= 0 else 128 - code
