"""Tells what is under way and how long it will take."""

import collections
import contextlib
import math
import statistics
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Self
from typing import TypeVar

import jax

from dlrl.runtime import terminal

T = TypeVar("T")
_START = time.monotonic()
_PATIENCE = 5.0  # seconds without a line
_SHORT = 1.0  # seconds; what takes less is not worth a line
_COMPILE = "/jax/core/compile/backend_compile_duration"


def say(text: str, *fields: str, error: bool = False) -> None:
  """Prints a text, with the seconds since the program began before it.

  Whatever the text, it does not command the terminal, see `terminal`. Lines are
  broken to fit the width: of a single text between words, else between fields.
  With `error` they go to stderr.
  """
  if fields:
    text = "  ".join(map(terminal.unbroken, (text, *fields)))
  terminal.write(
    text, f"[{time.monotonic() - _START:7.1f} s] ", error=error)


def watched(items: Sequence[T], label: str,
            clock: Callable[[], float] = time.monotonic) -> Iterator[T]:
  """Goes through `items` and shows how many are done, see `Count`."""
  with Count(len(items), label, clock) as count:
    for item in items:
      yield item
      count.step()


@contextlib.contextmanager
def doing(text: str) -> Iterator[None]:
  """Shows `text` and the time that the block takes, if it takes long.

  Without a terminal, stderr gets a line once it has taken long, and another at
  the end.
  """
  work = _Work(text, error=True)
  try:
    yield
  finally:
    work.end()


def show_compilations() -> None:
  """From now on, shows which program is compiled, if it takes long.

  For our programs, whose stdout it is part of; what the user of a library
  compiles is not printed.
  """
  here = threading.local()  # programs are compiled in several threads

  def begins(event: str, value: float, **kwargs: str | int) -> None:
    if event == _COMPILE:
      here.work = _Work(
        f"compiling {_program(str(kwargs['fun_name']))}", error=False)

  def ends(event: str, duration_secs: float, **kwargs: str | int) -> None:
    if event == _COMPILE:
      here.work.end()

  jax.monitoring.register_scalar_listener(begins)
  jax.monitoring.register_event_duration_secs_listener(ends)


class _Work:
  """Work of unknown length: it is shown once it has lasted for a while."""

  def __init__(self, text: str, error: bool) -> None:
    self._text, self._error = text, error
    self._began = time.monotonic()
    self._lock = threading.Lock()
    self._shown = self._ended = False
    # In another thread: the one that works may be in a call into XLA.
    self._timer = threading.Timer(_SHORT, self._show)
    self._timer.daemon = True
    self._timer.start()

  def _show(self) -> None:
    with self._lock:
      if self._ended:
        return
      self._shown = True
      terminal.begin(self._look)
      if not terminal.changes():
        say(self._text, error=self._error)

  def _look(self) -> terminal.View:
    seconds = time.monotonic() - self._began
    return terminal.View(self._text, None, [_clock_time(seconds)])

  def end(self) -> None:
    self._timer.cancel()
    with self._lock:
      self._ended = True
      if self._shown:
        terminal.end(self._look)
        if not terminal.changes():
          seconds = time.monotonic() - self._began
          say(f"{self._text} took {seconds:.1f} s", error=self._error)


class Count:
  """Shows how many of many things alike are done, while it is entered.

  Without a terminal, stderr gets a line every few seconds, and none if all is
  done sooner. Stdout belongs to the program that calls the library.

  Args:
    total: how many there are.
    label: what they are.
    clock: returns monotonic seconds.
  """

  def __init__(self, total: int, label: str,
               clock: Callable[[], float] = time.monotonic) -> None:
    self._total, self._label, self._clock = total, label, clock
    self._done = 0
    self._start = self._said = clock()

  def step(self, done: int = 1) -> None:
    """Another `done` of them are done."""
    self._done += done
    now = self._clock()
    if now - self._said >= _PATIENCE and not terminal.changes():
      self._said = now
      say(*self._fields(now), error=True)

  def _fields(self, now: float) -> list[str]:
    fields = [f"{self._label}  {self._done}/{self._total}"]
    if self._done:
      left = (now - self._start) / self._done * (self._total - self._done)
      fields.append(f"ETA {_clock_time(left)}")
    return fields

  def _look(self) -> terminal.View:
    name, *fields = self._fields(self._clock())
    return terminal.View(name, self._done / max(self._total, 1), fields)

  def __enter__(self) -> Self:
    terminal.begin(self._look)
    return self

  def __exit__(self, *exc: object) -> None:
    terminal.end(self._look)


class Progress:
  """Times the steps of a loop and, while it is entered, shows its progress.

  Args:
    total: number of the last step.
    label: first word of each line.
    clock: returns monotonic seconds.
    done: number of the last step that has ended before.
  """

  def __init__(self, total: int, label: str,
               clock: Callable[[], float] = time.monotonic, *,
               done: int = 0) -> None:
    self._total, self._label, self._clock = total, label, clock
    self._last = clock()
    self._ticks = 0
    self._seconds: collections.deque[float] = collections.deque(maxlen=25)
    self._step = done
    self._values: list[str] = []

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
    return "  ".join(self._fields(step, _named(values)))

  def show(self, step: int, *, says: bool = True, stays: bool = False,
           **values: float | str) -> None:
    """Shows a step that has ended, and its values, the most telling first.

    Args:
      step: its number.
      says: whether a line is printed where no line changes, as in a file.
      stays: whether a line is printed even on a terminal, above the one that
        changes.
      **values: by name.
    """
    self._step, self._values = step, _named(values)
    if stays or (says and not terminal.changes()):
      say(*self._fields(step, self._values))

  def _fields(self, step: int, values: list[str]) -> list[str]:
    return [self._name(step), *values, *self._pace(step)]

  def _name(self, step: int) -> str:
    return f"{self._label}  {step:{len(str(self._total))}d}/{self._total}"

  def _pace(self, step: int) -> list[str]:
    if not self._seconds:
      return []
    each = statistics.median(self._seconds)
    left = max(self._total - step, 0) * each
    return [f"{_number(each)} s/step", f"ETA {_clock_time(left)}"]

  def _look(self) -> terminal.View:
    pace = self._pace(self._step)
    return terminal.View(
      self._name(self._step), self._step / max(self._total, 1),
      [*pace[1:], *self._values, *pace[:1]])

  def __enter__(self) -> Self:
    terminal.begin(self._look)
    return self

  def __exit__(self, *exc: object) -> None:
    terminal.end(self._look)


def _named(values: dict[str, float | str]) -> list[str]:
  return [f"{name} {value if isinstance(value, str) else _number(value)}"
          for name, value in values.items()]


def _program(name: str) -> str:
  """`fine-tuning` of `jit(fine_tuning)`."""
  return name.removeprefix("jit(").removesuffix(")").strip("_").replace(
    "_", "-")


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
