"""Runs stages one after the other, each in a process with a time limit.

This process never looks for devices, whose memory JAX would take.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Sequence

from benchmarks.accelerator import rows as rows_lib

LEAST = 15.0  # seconds that a stage needs to find out anything
END = "the stage"  # of the row that says how a stage ended
_ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True)
class Stage:
  """A part of the benchmark.

  Attributes:
    name: of its rows.
    module: has `run(rows, dry=...)`.
    seconds: at most.
    deterministic: whether XLA is told to compute the same bits in every run.
    no_jax: whether JAX has to leave the accelerator alone.
  """

  name: str
  module: str
  seconds: float
  deterministic: bool = False
  no_jax: bool = False

  def in_dry_run(self, times: float) -> "Stage":
    """The stage with so many times its seconds."""
    return dataclasses.replace(self, seconds=times * self.seconds)


def run(
  stages: Sequence[Stage], path: pathlib.Path, total: float, *,
  dry: bool = False, after: Callable[[], None] = lambda: None,
) -> list[rows_lib.Row]:
  """The rows of all stages; each ends with one of `END`.

  Args:
    stages: in order of value. One is stopped at its limit, or at the end of
      `total` if that comes before; one without time is skipped.
    path: the file of the rows; what is in it is deleted. Beside it, `log.txt`
      gets what the stages print.
    total: seconds for all of them.
    dry: whether the shapes are tiny and the device is the CPU.
    after: called after each stage.
  """
  until = time.time() + total
  path.write_text("", encoding="utf-8")
  log = path.with_name("log.txt")
  log.write_text("", encoding="utf-8")
  for stage in stages:
    rows = rows_lib.Rows(path, stage.name)
    left = until - time.time()
    if left < min(LEAST, stage.seconds):
      rows.put(END, skipped=f"{max(left, 0):.0f} s of {total:.0f} s were left")
    else:
      _run(stage, rows, min(stage.seconds, left), log, dry)
    after()
  return rows_lib.read(path)


def _run(stage: Stage, rows: rows_lib.Rows, seconds: float, log: pathlib.Path,
         dry: bool) -> None:
  began = time.time()
  command = [
    sys.executable, "-m", "benchmarks.accelerator.stage", stage.module,
    str(rows.path), f"--name={stage.name}", f"--until={began + seconds}",
    *["--dry"] * dry, *["--deterministic"] * stage.deterministic]
  said: rows_lib.Row = {}
  with log.open("ab") as f:
    child = subprocess.Popen(
      command, stdout=f, stderr=f, env=_environment(stage, dry),
      start_new_session=True)
    try:
      child.wait(seconds)
    except subprocess.TimeoutExpired:
      said["failed"] = f"stopped at its limit of {seconds:.0f} s"
    finally:  # also of what it started, and if we are told to stop
      _kill(child)
  if not said and child.returncode:
    said["failed"] = _ended(child.returncode)
  rows.put(END, **said, seconds=round(time.time() - began, 1))


def _kill(child: subprocess.Popen[bytes]) -> None:
  with contextlib.suppress(ProcessLookupError):  # none of them is left
    os.killpg(child.pid, signal.SIGKILL)
  child.wait()


def _ended(code: int) -> str:
  if code < 0:
    return f"ended by {signal.Signals(-code).name}; see log.txt"
  return f"ended with exit code {code}; see log.txt"


def _environment(stage: Stage, dry: bool) -> dict[str, str]:
  paths = (str(_ROOT), os.environ.get("PYTHONPATH"))
  changes = {"PYTHONPATH": os.pathsep.join(filter(None, paths)),
             "TF_CPP_MIN_LOG_LEVEL": "2"}
  if dry:  # compiled fast
    changes["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
  if dry or stage.no_jax:
    changes["JAX_PLATFORMS"] = "cpu"
  elif named := os.environ.get("JAX_PLATFORMS"):
    changes["JAX_PLATFORMS"] = f"{named},cpu"  # for values to compare with
  return os.environ | changes
