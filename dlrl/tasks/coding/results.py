"""This process's sandbox: started when first needed, with what it ran last.

Rewards and metrics ask for results of the same programs, and completions of one
prompt are often equal: each program is run once.
"""

import atexit
import collections
import os
import threading
from collections.abc import Sequence

from absl import logging

from dlrl.sandbox import sandbox

_REMEMBERED = 2048
_lock = threading.Lock()
_box: sandbox.Sandbox | None = None
_results: collections.OrderedDict[
    sandbox.Program, sandbox.Result] = collections.OrderedDict()


def start(limits: sandbox.ProgramLimits = sandbox.LIMITS,
          workers: int | None = None, *,
          allow_missing: Sequence[str] = ()) -> str:
  """Starts the sandbox with these settings, in place of the one that runs.

  Returns:
    One line: what protects this machine.

  Raises:
    strict.ConfigError, RuntimeError: as `sandbox.Sandbox`.
  """
  close()
  with _lock:
    return _start(limits, workers, allow_missing).protections


def _start(limits: sandbox.ProgramLimits, workers: int | None,
           allow_missing: Sequence[str]) -> sandbox.Sandbox:
  global _box
  _box = sandbox.Sandbox(limits, workers, allow_missing=allow_missing)
  (logging.warning if _box.holes else logging.info)("%s", _box.protections)
  return _box


@atexit.register
def close() -> None:
  """Ends the sandbox, if it runs, and forgets its results."""
  global _box
  with _lock:
    if _box is not None:
      _box.close()
    _box = None
    _results.clear()


def run(programs: Sequence[sandbox.Program]) -> list[sandbox.Result]:
  """Results of the programs; starts a sandbox by default.

  Raises:
    strict.ConfigError, RuntimeError: it cannot be started.
  """
  with _lock:
    known = {one: _results[one] for one in programs if one in _results}
    new = [one for one in dict.fromkeys(programs) if one not in known]
    if new:
      box = _box or _start(sandbox.LIMITS, None, ())
      known.update(zip(new, box.run(new), strict=True))
    for one, result in known.items():
      if result.infrastructure_error is None:
        _results[one] = result
        _results.move_to_end(one)
    while len(_results) > _REMEMBERED:
      _results.popitem(last=False)
  return [known[one] for one in programs]


def _forked() -> None:
  """A child leaves its parent's sandbox alone: it starts its own."""
  global _box, _lock
  _box, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forked)
