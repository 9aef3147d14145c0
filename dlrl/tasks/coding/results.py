"""The sandbox of this process, and the results of what it ran last.

Rewards and metrics ask for the same programs, and completions of one prompt are
often equal. Each program therefore runs once, and its result is kept.
"""

import atexit
import collections
import os
import threading
from collections.abc import Sequence

from absl import logging

from dlrl.sandbox import sandbox

_MAX_KEPT = 2048  # results
_lock = threading.Lock()
_box: sandbox.Sandbox | None = None
_results: collections.OrderedDict[
    sandbox.Program, sandbox.Result] = collections.OrderedDict()


def start(allow_missing: Sequence[str] = ()) -> str:
  """Starts the sandbox, or replaces the one that runs.

  Args:
    allow_missing: protections that may be missing on this machine, of "files",
      "network" and "processes" (`task.sandbox_allow`).

  Returns:
    One line that says what protects this machine.

  Raises:
    strict.ConfigError, RuntimeError: same as `sandbox.Sandbox`.
  """
  close()
  with _lock:
    return _start(allow_missing).protections


def _start(allow_missing: Sequence[str]) -> sandbox.Sandbox:
  global _box
  _box = sandbox.Sandbox(allow_missing=allow_missing)
  (logging.warning if _box.holes else logging.info)("%s", _box.protections)
  return _box


@atexit.register
def close() -> None:
  """Ends the sandbox if it runs, and forgets its results."""
  global _box
  with _lock:
    if _box is not None:
      _box.close()
    _box = None
    _results.clear()


def run(programs: Sequence[sandbox.Program]) -> list[sandbox.Result]:
  """Returns the results of the programs; starts a sandbox if none runs.

  Raises:
    strict.ConfigError, RuntimeError: same as `sandbox.Sandbox`.
  """
  with _lock:
    known = {program: _results[program]
             for program in programs if program in _results}
    new = [program for program in dict.fromkeys(programs)
           if program not in known]
    if new:
      box = _box or _start(())
      known.update(zip(new, box.run(new), strict=True))
    for program, result in known.items():
      # A failure of the sandbox says nothing about the program: try it again.
      if result.infrastructure_error is None:
        _results[program] = result
        _results.move_to_end(program)
    while len(_results) > _MAX_KEPT:
      _results.popitem(last=False)
  return [known[program] for program in programs]


def _forked() -> None:
  """In a forked child: the sandbox and the lock belong to the parent."""
  global _box, _lock
  _box, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forked)
