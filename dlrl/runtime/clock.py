"""Seconds per phase of a run, over all its restarts."""

import contextlib
import time
from collections.abc import Iterator
from collections.abc import Mapping


class Clock:
  """Adds up the wall time of named phases.

  Args:
    totals: seconds per phase so far, from a checkpoint.
  """

  def __init__(self, totals: Mapping[str, float] = {}):
    self.totals = dict(totals)

  def add(self, phase: str, seconds: float) -> None:
    """Counts `seconds` for `phase`."""
    self.totals[phase] = self.totals.get(phase, 0.0) + seconds

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Counts the time spent inside."""
    start = time.monotonic()
    yield
    self.add(name, time.monotonic() - start)
