"""Trains what is not stored yet, several runs at a time."""

import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.claims import runs as runs_lib
from benchmarks.claims import store
from dlrl.run import summary as summary_lib
from dlrl.runtime import parent_process
from dlrl.runtime import progress

_ROOT = pathlib.Path(__file__).parents[2]
FIRST = 3  # seeds of all rows that come before the other seeds of any
# Exit code of a run that cannot go on, see `dlrl.main`. Others are of runs that
# were stopped, or whose workdir another process has.
FAILED = 1
_PAUSE = 0.5  # seconds between looks at the processes
Active = dict[runs_lib.Run, subprocess.Popen[bytes]]


def pending(rows: Sequence[runs_lib.Row], results: pathlib.Path
            ) -> list[runs_lib.Run]:
  """Runs without a result, once each, in order of value.

  The first seeds of a claim's rows come before the next claim's, and those of
  all claims before any other seed. Within a claim they go seed by seed, so that
  its rows can be compared early.
  """
  claims = list(dict.fromkeys(row.claim for row in rows))
  found = sorted(
    ((i >= FIRST, claims.index(row.claim), i, place), row.run(seed))
    for place, row in enumerate(rows) for i, seed in enumerate(row.seeds))
  return [run for run in dict.fromkeys(run for _, run in found)
          if not store.has(results, run)]


def next_of(
  queue: Sequence[runs_lib.Run], active: Active, workdirs: pathlib.Path,
  failed: Sequence[runs_lib.Run] = (),
) -> runs_lib.Run | None:
  """Chooses a run to start, or the warm start that it needs; None: neither."""
  for run in queue:
    if run in active or run in failed:
      continue
    warm = run.warm
    if warm is None or _finished(warm, workdirs):
      return run
    if warm not in active and warm not in failed:
      return warm
  return None


def run_all(
  queue: Sequence[runs_lib.Run], results: pathlib.Path,
  workdirs: pathlib.Path, *, jobs: int, seconds: float,
) -> list[runs_lib.Run]:
  """Trains, stores each result, and deletes its workdir; returns what failed.

  Args:
    queue: the runs, in order of value.
    results: directory of the stored results.
    workdirs: directory of the workdirs; warm starts stay there.
    jobs: runs at a time.
    seconds: no run is begun later than this after the start.
  """
  workdirs.mkdir(parents=True, exist_ok=True)
  left, failed = list(queue), list[runs_lib.Run]()
  active: Active = {}
  until = time.monotonic() + seconds
  with progress.Count(len(left), "runs") as count:
    try:
      while True:
        while len(active) < jobs and time.monotonic() < until:
          run = next_of(left, active, workdirs, failed)
          if run is None:
            break
          progress.say(f"{run.name}: begins; its log is "
                       f"{_log(run, workdirs)}")
          active[run] = _start(run, workdirs)
        if not active:
          return failed
        for run in [run for run, child in active.items()
                    if child.poll() is not None]:
          if code := active.pop(run).returncode:
            failed.append(run)
            progress.say(f"{run.name}: failed, see {_log(run, workdirs)}")
            if code == FAILED:
              store.fail(results, run, _log(run, workdirs))
          elif run in left:
            store.collect(results, run, run.workdir(workdirs))
            shutil.rmtree(run.workdir(workdirs))
            left.remove(run)
            count.step()
        time.sleep(_PAUSE)
    finally:  # also if we are told to stop; they go on from checkpoints
      for child in active.values():
        child.terminate()
      for child in active.values():
        child.wait()


def finish(run: runs_lib.Run, workdirs: pathlib.Path, workdir: pathlib.Path,
           **extra: Any) -> None:
  """Trains one run to its end, and before it the warm start that it needs.

  Args:
    run: the run.
    workdirs: directory of the warm starts.
    workdir: the run's own.
    **extra: settings beyond the run's, such as `checkpoint_keep`.

  Raises:
    subprocess.CalledProcessError: it failed; its output says why.
  """
  if run.warm is not None and not _finished(run.warm, workdirs):
    finish(run.warm, workdirs, run.warm.workdir(workdirs))
  workdir.parent.mkdir(parents=True, exist_ok=True)
  with workdir.with_suffix(".log").open("ab") as log:
    subprocess.run(
      _command(run, workdirs, workdir, **extra), stdout=log, stderr=log,
      cwd=_ROOT, env=environment(workdirs), check=True)


def _finished(run: runs_lib.Run, workdirs: pathlib.Path) -> bool:
  return summary_lib.read(run.workdir(workdirs)) is not None


def _log(run: runs_lib.Run, workdirs: pathlib.Path) -> pathlib.Path:
  return workdirs / f"{run.name}.log"


def _start(run: runs_lib.Run, workdirs: pathlib.Path
           ) -> subprocess.Popen[bytes]:
  with _log(run, workdirs).open("ab") as log:
    return subprocess.Popen(
      _command(run, workdirs, run.workdir(workdirs)),
      stdout=log, stderr=log, cwd=_ROOT, env=environment(workdirs),
      # Not left behind if we are killed: it saves, and another runner goes on.
      preexec_fn=functools.partial(parent_process.follow, signal.SIGTERM))


def _command(run: runs_lib.Run, workdirs: pathlib.Path, workdir: pathlib.Path,
             **extra: Any) -> list[str]:
  return [sys.executable, "-m", "dlrl.main", f"--workdir={workdir}",
          *run.arguments(workdirs, **extra)]


def environment(workdirs: pathlib.Path) -> dict[str, str]:
  """That of a run: it imports this project, and seeds share their programs."""
  paths = (str(_ROOT), os.environ.get("PYTHONPATH"))
  return os.environ | {
    "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    "JAX_COMPILATION_CACHE_DIR": str(workdirs / "compiled")}
