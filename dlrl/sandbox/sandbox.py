"""Runs hostile programs against tests that they cannot see.

    with Sandbox() as box:
      results = box.run([Program(code, tests, entry_point="add")])

Of each job, one process runs the program and another one the tests, which call
the program over a socket and get plain data back; `docs/sandbox.md` says what
each can do. Neither is a fork of this process. `python -m
dlrl.sandbox.sandbox` prints what protects this machine.
"""

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from dlrl import strict
from dlrl.sandbox import client
from dlrl.sandbox import probe

LONGEST = 1_000_000  # characters of a program, its tests and its setup
_ATTEMPTS, _PAUSE_S = 3, 0.1


@dataclasses.dataclass(frozen=True)
class ProgramLimits:
  """What a program may use.

  `cpu_s` is processor time, of loading (running the program, without a test)
  and of each call; `wall_s` is of loading and of each test. `total_s` is of all
  tests together, and of starting again after one that did not end.
  """

  cpu_s: int = 5
  wall_s: int = 15
  total_s: int = 30
  memory_mib: int = 512
  files_mib: int = 16  # all its files, in memory
  open_files: int = 64
  processes: int = 256  # of all programs; used where there is no filter

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      strict.require(value > 0, f"limits.{name}", value, "must be positive")


LIMITS = ProgramLimits()


@dataclasses.dataclass(frozen=True)
class Program:
  """A program and its tests, statements that raise unless it is right.

  The setup runs once, before the tests and with their rights. Only calls of
  `entry_point` give tests data; of other names of the program they get objects
  that can only be given back to it. Without an entry point, all names that
  neither tests, setup nor Python define are under test.
  """

  code: str
  tests: tuple[str, ...]
  setup: str = ""
  entry_point: str = ""

  def __post_init__(self):
    strict.require(bool(self.tests), "tests", self.tests,
                   "at least one: a program without tests is not right")
    length = sum(map(len, (self.code, self.setup, *self.tests)))
    strict.require(length <= LONGEST, "code", f"{length} characters",
                   f"with its tests and setup, at most {LONGEST}")


@dataclasses.dataclass(frozen=True)
class Result:
  """Verdicts of a program's tests in order, and why the failed ones failed.

  With an infrastructure error nothing is known of the program, and all
  verdicts are False: look at it first.
  """

  passed: tuple[bool, ...]
  reasons: tuple[str, ...]
  infrastructure_error: str | None = None


class Sandbox:
  """A server of programs; at most `workers` run at once.

  Raises:
    strict.ConfigError: an essential protection is missing and not allowed to.
    RuntimeError: it does not start; it needs Linux.
  """

  def __init__(
    self,
    limits: ProgramLimits = LIMITS,
    workers: int | None = None,
    *,
    allow_missing: Sequence[str] = (),
    without: Sequence[str] = (),
  ):
    """Starts it, and has a program try to get out.

    Args:
      limits: of each program.
      workers: pairs of processes at a time; None: one per CPU.
      allow_missing: of "files", "network", "processes": effects that may be
        missing. A program may then read what this user may read, and so on.
      without: of "namespaces", "filter": mechanisms not to use.
    """
    if sys.platform != "linux":
      raise RuntimeError("the code sandbox needs Linux")
    strict.require(workers is None or workers > 0, "workers", workers,
                   "must be positive")
    for field, names, known in (
        ("allow_missing", allow_missing, probe.EFFECTS),
        ("without", without, client.MECHANISMS)):
      strict.require(set(names) <= set(known), field, tuple(names),
                     f"known: {', '.join(known)}")
    self._limits = limits
    self._server = client.Server(dataclasses.asdict(limits), without)
    self._pool = futures.ThreadPoolExecutor(
        workers or len(os.sched_getaffinity(0)), "sandbox")
    self._lock = threading.Lock()
    self.infrastructure_errors = 0
    try:
      self._require(allow_missing)
    except BaseException:
      self.close()
      raise

  def _require(self, allow_missing: Sequence[str]) -> None:
    with probe.tests() as tests:
      result = self.run([Program(probe.CODE, tests)])[0]
    if result.infrastructure_error is not None:
      raise RuntimeError(
          f"the code sandbox does not work: {result.infrastructure_error}")
    self.holes = {
        effect: reason for effect, passed, reason in zip(
            probe.EFFECTS, result.passed, result.reasons, strict=True)
        if not passed}
    self.protections = _describe(self._server.greeting, self.holes)
    for effect, reason in self.holes.items():
      strict.require(
          effect in allow_missing, "sandbox.allow_missing",
          tuple(allow_missing),
          f"programs here reach {effect} ({reason}); {self.protections}. Allow "
          "seccomp or user namespaces on this machine, or, if you trust the "
          f"programs, allow {effect!r} to be open")

  def run(self, programs: Sequence[Program]) -> list[Result]:
    """Results in the order of the programs; waits for all of them."""
    return list(self._pool.map(self._run, programs))

  def close(self) -> None:
    """Ends the server, and every process that it started."""
    self._pool.shutdown(cancel_futures=True)
    self._server.close()

  def __enter__(self) -> "Sandbox":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  @property
  def server(self) -> int:
    """Process id of the server, which may be another one after a crash."""
    return self._server.process

  def _run(self, program: Program) -> Result:
    for _ in range(_ATTEMPTS):
      try:
        reasons = self._reasons(program)
      except client.FaultyTestError as error:
        reason = str(error)
        break
      except client.InfrastructureError as error:
        reason = str(error)
        time.sleep(_PAUSE_S)
      else:
        return Result(tuple(not one for one in reasons), tuple(reasons))
    with self._lock:
      self.infrastructure_errors += 1
    count = len(program.tests)
    return Result((False,) * count, (reason,) * count, reason)

  def _reasons(self, program: Program) -> list[str]:
    """Why each test failed; empty if it passed.

    A test that does not end, or ends the program, costs the pair of processes:
    the next test gets a new one.
    """
    reasons: list[str] = []
    end = time.monotonic() + self._limits.total_s
    count = len(program.tests)
    while len(reasons) < count:
      with self._server.pair() as pair:
        pair.send(dict(dataclasses.asdict(program),
                       tests=program.tests[len(reasons):]))
        loaded = pair.verdict("loading", self._limits.wall_s, end)
        if loaded["reason"]:
          return reasons + [loaded["reason"]] * (count - len(reasons))
        lost = False
        while len(reasons) < count and not lost:
          verdict = pair.verdict("test", self._limits.wall_s, end)
          reasons.append(verdict["reason"])
          lost = verdict["lost"]
    return reasons


def _describe(greeting: dict[str, Any], holes: dict[str, str]) -> str:
  """One line: mechanisms in force, those missing and why, and their effect."""
  missing = [f"no {name} ({why})"
             for name, why in greeting["missing"].items()]
  closed = [name for name in probe.EFFECTS if name not in holes]
  effects = [f"{name} OPEN" for name in holes]
  if closed:
    effects.append(f"closed: {', '.join(closed)}")
  return "; ".join(["code sandbox: " + ", ".join(greeting["layers"]),
                    *missing, *effects])


def main() -> None:
  """Prints what protects this machine from programs."""
  with Sandbox(allow_missing=probe.EFFECTS) as box:
    print(box.protections)


if __name__ == "__main__":
  main()
