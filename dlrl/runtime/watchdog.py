"""Ends a process that makes no progress, after printing all stacks.

Otherwise a collective that one process never joins, or a file system that no
longer answers, would keep a job and its accelerators waiting for ever.
"""

import collections
import faulthandler
import os
import statistics
import threading
from collections.abc import Callable

from dlrl import config
from dlrl.runtime import terminal

EXIT_CODE = 43
_REMEMBERED = 101  # durations of each kind of work, for their median


class Watchdog:
  """While entered, a thread ends the process if work takes too long.

  Work comes in named kinds: "step", "evaluation", "checkpoint". Each is
  compared with earlier work of the same kind.

  Args:
    cfg: the time limits.
    end: ends the process; replaced in tests.
    poll: seconds between checks. Elapsed time is counted in polls, so that a
      process that was suspended is not mistaken for one that hangs.
  """

  def __init__(self, cfg: config.WatchdogConfig, *,
               end: Callable[[], None] = lambda: os._exit(EXIT_CODE),
               poll: float = 1.0) -> None:
    self._cfg, self._end, self._poll = cfg, end, poll
    self._took: dict[str, collections.deque[float]] = {}
    self._work: str | None = None
    self._waited = 0.0
    self._lock = threading.Lock()
    self._closed = threading.Event()
    self._thread = threading.Thread(
      target=self._watch, name="watchdog", daemon=True)

  def begin(self, work: str) -> None:
    """Ends the work in progress and begins work of the kind `work`."""
    with self._lock:
      self._finish()
      self._work = work

  def limit(self, work: str) -> float:
    """Seconds that the next work of this kind may take."""
    took = self._took.get(work)
    if not took:
      return self._cfg.first_seconds
    return max(self._cfg.least_seconds,
               self._cfg.times * statistics.median(took))

  def look(self) -> bool:
    """Ends the process if the work in progress is late; returns whether it is.

    The thread calls this every `poll` seconds.
    """
    with self._lock:
      self._waited += self._poll
      work, waited = self._work, self._waited
      late = work is not None and waited > self.limit(work)
    if late:
      terminal.show(
        f"dlrl: hangs: this {work} has not ended in {waited:.0f} s, it "
        f"usually takes {self._usual(work)}; config.watchdog sets the "
        "limits. Stacks of all threads:", error=True)
      faulthandler.dump_traceback(all_threads=True)
      # By os._exit, not an exception: the main thread hangs in a call into XLA
      # and would never see it.
      self._end()
    return late

  def _usual(self, work: str | None) -> str:
    took = self._took.get(work or "")
    return f"{statistics.median(took):.0f} s" if took else "an unknown time"

  def _finish(self) -> None:
    if self._work is not None:
      took = self._took.setdefault(
        self._work, collections.deque(maxlen=_REMEMBERED))
      took.append(self._waited)
    self._work, self._waited = None, 0.0

  def _watch(self) -> None:
    while not self._closed.wait(self._poll):
      if self.look():
        return

  def __enter__(self) -> "Watchdog":
    if self._cfg.times:
      self._thread.start()
    return self

  def __exit__(self, *exc: object) -> None:
    self._closed.set()
    if self._cfg.times:
      self._thread.join()
