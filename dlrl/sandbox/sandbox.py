"""Runs hostile programs against tests that they cannot see.

    with Sandbox() as box:
      results = box.run([Program(code, tests, entry_point="add")])

Two processes work on each job. The candidate runs the program. The judge runs
the tests, calls the program over a socket and gets plain data back. Neither is
forked from the trainer. `docs/sandbox.md` has the threat model.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from concurrent import futures

from dlrl import strict
from dlrl.sandbox import client
from dlrl.sandbox import probe

MAX_CHARACTERS = 1_000_000  # of a program with its tests and its setup
_ATTEMPTS, _PAUSE_S = 3, 0.1


@dataclasses.dataclass(frozen=True)
class ProgramLimits:
  """Resources that one program may use; all values are positive.

  Attributes:
    cpu_s: processor time of loading (running the program without a test), and
      of each call.
    wall_s: wall time of loading, and of each test.
    total_s: wall time of all tests together, including the time to load the
      program again after a test that did not end. Also the processor time of
      each process.
    memory_mib: address space, beyond that of an idle process.
    files_mib: all files of the program; they are kept in memory.
    open_files: file descriptors.
    processes: processes and threads of one program. Where its user cannot be
      its own, those of all programs together.
  """

  cpu_s: int = 5
  wall_s: int = 15
  total_s: int = 30
  memory_mib: int = 512
  files_mib: int = 16
  open_files: int = 64
  processes: int = 64

  def __post_init__(self) -> None:
    for name, value in dataclasses.asdict(self).items():
      strict.require(value > 0, f"ProgramLimits.{name}", value,
                     "must be positive", strict.ArgumentError)


LIMITS = ProgramLimits()


@dataclasses.dataclass(frozen=True)
class Program:
  """A program, and tests that raise unless it is right.

  Attributes:
    code: the program.
    tests: statements; each test is judged by itself.
    setup: runs once, before the tests and with their rights.
    entry_point: the function under test. Only its calls give tests data; from
      other names of the program, tests get objects that they can only give
      back. If empty, every name that neither tests, setup nor Python define is
      under test.
  """

  code: str
  tests: tuple[str, ...]
  setup: str = ""
  entry_point: str = ""

  def __post_init__(self) -> None:
    strict.require(bool(self.tests), "Program.tests", self.tests,
                   "needs at least one test, or any program would be right",
                   strict.ArgumentError)
    length = sum(map(len, (self.code, self.setup, *self.tests)))
    strict.require(length <= MAX_CHARACTERS, "Program.code",
                   f"{length} characters with tests and setup",
                   f"must have at most {MAX_CHARACTERS}", strict.ArgumentError)


@dataclasses.dataclass(frozen=True)
class Result:
  """What a program's tests showed, in order, and why the others did not pass.

  Attributes:
    outcomes: of the tests. UNKNOWN says nothing about the program: the sandbox
      failed, or the test cannot be decided in it.
    reasons: why a test did not pass; empty if it did.
    infrastructure_error: why all outcomes are unknown; None if the sandbox did
      not fail.
  """

  outcomes: tuple[client.Outcome, ...]
  reasons: tuple[str, ...]
  infrastructure_error: str | None = None

  @property
  def passed(self) -> tuple[bool, ...]:
    """Whether each test passed."""
    return tuple(one is client.Outcome.PASSED for one in self.outcomes)


class Sandbox:
  """A server that runs programs, at most `workers` at a time.

  Attributes:
    holes: maps each effect of `probe.EFFECTS` that is not prevented to what
      the probe reached.
    protections: one line for people, what protects this machine.
  """

  def __init__(
    self,
    limits: ProgramLimits = LIMITS,
    workers: int | None = None,
    *,
    allow_missing: Sequence[str] = (),
    without: Sequence[str] = (),
  ) -> None:
    """Starts the server, and has a probe try to get out.

    Args:
      limits: what each program may use.
      workers: pairs of processes at a time; None means one per CPU.
      allow_missing: protections that may be missing, of "files", "network" and
        "processes". If "files" is missing, programs can read what this user
        can read, and so on.
      without: mechanisms not to use, of "namespaces" and "filter".

    Raises:
      strict.ConfigError: an argument is invalid, or a protection is missing
        that is not in `allow_missing`.
      RuntimeError: the server does not start, or this is not Linux.
    """
    if sys.platform != "linux":
      raise RuntimeError("the code sandbox needs Linux")
    strict.require(workers is None or workers > 0, "Sandbox.workers", workers,
                   "must be positive", strict.ArgumentError)
    for argument, names, known in (
        ("allow_missing", allow_missing, probe.EFFECTS),
        ("without", without, client.MECHANISMS)):
      strict.require(set(names) <= set(known), f"Sandbox.{argument}",
                     tuple(names), f"choose from {', '.join(known)}",
                     strict.ArgumentError)
    self._limits = limits
    self._server = client.ServerProcess(dataclasses.asdict(limits), without)
    self._pool = futures.ThreadPoolExecutor(
        workers or len(os.sched_getaffinity(0)), "sandbox")
    try:
      self._check_protections(allow_missing)
    except BaseException:
      self.close()
      raise

  def _check_protections(self, allow_missing: Sequence[str]) -> None:
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
    missing = [effect for effect in self.holes if effect not in allow_missing]
    reached = "; ".join(f"{name}: {self.holes[name]}" for name in missing)
    strict.require(
        not missing, "task.sandbox_allow", tuple(allow_missing),
        f"programs can reach {', '.join(missing)} here ({reached}); "
        f"{self.protections}. Allow seccomp or user namespaces on this "
        "machine, or, if you trust the programs, add "
        f"{', '.join(map(repr, missing))} to task.sandbox_allow (in Python, "
        "Sandbox(allow_missing=...))")

  def run(self, programs: Sequence[Program]) -> list[Result]:
    """Runs the programs and waits for all; results are in their order."""
    return list(self._pool.map(self._run, programs))

  def close(self) -> None:
    """Ends the server and every process that it started."""
    self._pool.shutdown(cancel_futures=True)
    self._server.close()

  def __enter__(self) -> "Sandbox":
    return self

  def __exit__(self, *exception: object) -> None:
    self.close()

  def _run(self, program: Program) -> Result:
    for _ in range(_ATTEMPTS):
      try:
        verdicts = self._verdicts(program)
      except client.FaultyTestError as error:
        failure = str(error)
        break
      except client.InfrastructureError as error:
        failure = str(error)
        time.sleep(_PAUSE_S)
      else:
        return Result(tuple(one.outcome for one in verdicts),
                      tuple(one.reason for one in verdicts))
    count = len(program.tests)
    return Result(
        (client.Outcome.UNKNOWN,) * count, (failure,) * count, failure)

  def _verdicts(self, program: Program) -> list[client.Verdict]:
    """Returns the verdict of each test.

    A test that does not end, or ends the program, costs the pair of processes.
    The next test gets a new pair, into which the program is loaded again.
    """
    found: list[client.Verdict] = []
    end = time.monotonic() + self._limits.total_s
    count = len(program.tests)
    while len(found) < count:
      with self._server.start_pair() as pair:
        pair.send(dict(dataclasses.asdict(program),
                       tests=program.tests[len(found):]))
        loading = pair.verdict("loading", self._limits.wall_s, end)
        if loading.reason:
          return found + [loading] * (count - len(found))
        lost = False
        while len(found) < count and not lost:
          found.append(pair.verdict("test", self._limits.wall_s, end))
          lost = found[-1].lost
    return found


def _describe(greeting: client.Greeting, holes: dict[str, str]) -> str:
  """One line: mechanisms in force, those missing and why, and their effect."""
  missing = [f"no {name} ({why})" for name, why in greeting["missing"].items()]
  closed = [name for name in probe.EFFECTS if name not in holes]
  effects = [f"{name} OPEN" for name in holes]
  if closed:
    effects.append(f"closed: {', '.join(closed)}")
  return "; ".join(["code sandbox: " + ", ".join(greeting["mechanisms"]),
                    *missing, *effects])
