"""Seconds per phase of a run over all its restarts; compilation is a phase."""

import contextlib
import time
from collections.abc import Iterator
from collections.abc import Mapping

import jax

COMPILE = "compile"
_compiled = 0.0  # seconds; global, as JAX's listeners are


def _listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
  global _compiled
  if event == "/jax/core/compile/backend_compile_duration":
    _compiled += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


def now() -> float:
  """Monotonic seconds from an arbitrary origin, without compilation."""
  return time.monotonic() - _compiled


class Clock:
  """Adds up the wall time of named phases, and of compilation.

  Args:
    totals: seconds per phase so far, from a checkpoint.
  """

  def __init__(self, totals: Mapping[str, float] = {}) -> None:
    self._totals = dict(totals)
    self._compiled = _compiled

  @property
  def totals(self) -> dict[str, float]:
    """Seconds per phase."""
    compiled = self._totals.get(COMPILE, 0.0) + _compiled - self._compiled
    return self._totals | {COMPILE: compiled}

  def add(self, phase: str, seconds: float) -> None:
    """Adds `seconds` to `phase`."""
    self._totals[phase] = self._totals.get(phase, 0.0) + seconds

  @contextlib.contextmanager
  def phase(self, name: str) -> Iterator[None]:
    """Adds the time spent inside the block, without compilation."""
    start = now()
    yield
    self.add(name, now() - start)
