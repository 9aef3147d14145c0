"""Profiles a range of steps, for xprof and Perfetto."""

import pathlib
from typing import Any

import jax

from dlrl.buckets import mirror


def span(steps: str) -> tuple[int, int] | None:
  """`(first, last)` step of `"10-12"` or `"10"`; None for `""`.

  Raises:
    ValueError: `steps` is something else.
  """
  if not steps:
    return None
  first, dash, last = steps.partition("-")
  found = int(first), int(last if dash else first)
  if not 1 <= found[0] <= found[1]:
    raise ValueError(steps)
  return found


class Window:
  """While entered, traces a span of steps in process 0.

  Args:
    steps: the steps, see `span`.
    directory: where the trace is written.
  """

  def __init__(self, steps: str, directory: pathlib.Path) -> None:
    self._span, self._directory = span(steps), directory
    self._tracing = False
    self._step: Any = None

  def begin(self, step: int, state: Any) -> None:
    """Ends the previous step in the trace and begins `step`.

    Args:
      step: number of the step that begins.
      state: arrays that the previous step computed. If the trace ends here, it
        waits for them, so that it covers all of the last step.
    """
    self._end_step()
    inside = self._span is not None and self._span[0] <= step <= self._span[1]
    if self._tracing and not inside:
      jax.block_until_ready(state)
      self._stop()
    if inside and not self._tracing and jax.process_index() == 0:
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # or every Python call of a grader
      jax.profiler.start_trace(self._directory, profiler_options=options)
      self._tracing = True
    if self._tracing:
      self._step = jax.profiler.StepTraceAnnotation("step", step_num=step)
      self._step.__enter__()

  def _end_step(self) -> None:
    if self._step is not None:
      self._step.__exit__(None, None, None)
      self._step = None

  def _stop(self) -> None:
    jax.profiler.stop_trace()
    mirror.push(self._directory)
    self._tracing = False

  def __enter__(self) -> "Window":
    return self

  def __exit__(self, *exc: object) -> None:
    self._end_step()
    if self._tracing:
      self._stop()
