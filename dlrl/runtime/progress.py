"""Prints lines about what takes long, with the remaining time."""

import collections
import math
import statistics
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import TypeVar

from dlrl.runtime import terminal

T = TypeVar("T")
_START = time.monotonic()
_PATIENCE = 5.0  # seconds without a line

_muted = False


def mute() -> None:
  """Prints nothing from now on; process 0 of the job prints the same."""
  global _muted
  _muted = True


def say(text: str) -> None:
  """Prints one line, with the seconds since the program began before it.

  Whatever the text, it does not command the terminal, see `terminal`.
  """
  if not _muted:
    terminal.show(f"[{time.monotonic() - _START:7.1f} s] {text}")


def watched(items: Sequence[T], label: str,
            clock: Callable[[], float] = time.monotonic) -> Iterator[T]:
  """Goes through `items`; every few seconds prints how many are done."""
  start = said = clock()
  for done, item in enumerate(items):
    if (now := clock()) - said >= _PATIENCE:
      said = now
      left = (now - start) / max(done, 1) * (len(items) - done)
      say(f"{label}  {done}/{len(items)}  ETA {_clock_time(left)}")
    yield item


class Progress:
  """Times the steps of a loop and describes its progress.

  Args:
    total: number of the last step.
    label: first word of each line.
    clock: returns monotonic seconds.
  """

  def __init__(self, total: int, label: str,
               clock: Callable[[], float] = time.monotonic) -> None:
    self._total, self._label, self._clock = total, label, clock
    self._last = clock()
    self._ticks = 0
    self._seconds: collections.deque[float] = collections.deque(maxlen=25)

  def tick(self, steps: int = 1) -> None:
    """Ends `steps` steps; the first tick, which compiles, is not timed.

    Call it after the loop has waited for the device: a step that has only been
    dispatched seems to take no time.
    """
    now = self._clock()
    if self._ticks:
      self._seconds.append((now - self._last) / steps)
    self._last = now
    self._ticks += 1

  def line(self, step: int, **values: float | str) -> str:
    """`rl   37/100  reward 0.71  2.8 s/step  ETA 2:57`, for `say`.

    The time per step is the median of recent steps, so that a step with an
    evaluation does not disturb it. It is absent until two steps are done.
    """
    width = len(str(self._total))
    parts = [f"{self._label}  {step:{width}d}/{self._total}"]
    parts += [f"{name} {value if isinstance(value, str) else _number(value)}"
              for name, value in values.items()]
    if self._seconds:
      each = statistics.median(self._seconds)
      left = max(self._total - step, 0) * each
      parts += [f"{_number(each)} s/step", f"ETA {_clock_time(left)}"]
    return "  ".join(parts)


def _number(value: float) -> str:
  if isinstance(value, int):
    return str(value)
  value = float(value)
  size = abs(value)
  if not math.isfinite(value):
    return str(value)
  if size >= 1e5 or 0 < size < 0.01:
    return f"{value:.1e}"
  return f"{value:.0f}" if size >= 100 else f"{value:.2f}"


def _clock_time(seconds: float) -> str:
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
