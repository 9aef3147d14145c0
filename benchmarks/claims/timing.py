"""Seconds and FLOPs per step of all rows of a claim, by short runs in turns.

Whatever else slows the machine slows the rows alike, and medians leave single
hindrances out. Take times on a machine that has nothing else to do.
"""

import functools
import pathlib
import shutil
import statistics
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks.claims import cost
from benchmarks.claims import runner
from benchmarks.claims import runs
from dlrl import rollout
from dlrl import train
from dlrl import validate
from dlrl.run import saved_params
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.run import utilization
from dlrl.runtime import progress
from dlrl.storage import metrics

STEPS, TURNS = 12, 3  # of a run that is timed, and such runs per row
# Held-out items are not timed, so that few do.
SHORT: dict[str, Any] = {
  "steps": STEPS, "eval.every": STEPS, "eval.size": 32, "eval.batch_size": 32}


def measure(rows: Sequence[runs.Row], workdirs: pathlib.Path) -> cost.Costs:
  """Costs of a claim's rows; FLOPs are those of the steps that were timed."""
  timed = workdirs / "timed"
  found: dict[str, dict[str, list[float]]] = {
    row.label: {part: [] for part in cost.PARTS} for row in rows}
  turns = [(turn, row) for turn in range(TURNS) for row in rows]
  for turn, row in progress.watched(turns, "runs that are timed"):
    workdir = _workdir(timed, row, turn)
    runner.finish(_run(row), workdirs, workdir, **SHORT)
    for part, values in seconds(workdir).items():
      found[row.label][part].append(statistics.median(values))
  costs: cost.Costs = {row.label: {
    "seconds": found[row.label], "flops": flops(_workdir(timed, row, 0))}
    for row in rows}
  # Or the next measurement would find finished runs.
  for turn, row in turns:
    shutil.rmtree(_workdir(timed, row, turn), ignore_errors=True)
  return costs


def _run(row: runs.Row) -> runs.Run:
  return row.run(row.seeds[0])


def _workdir(timed: pathlib.Path, row: runs.Row, turn: int) -> pathlib.Path:
  return timed / f"{_run(row).name}-{turn}"


def seconds(workdir: pathlib.Path) -> dict[str, list[float]]:
  """Of each part of a run's steps, but the first, which waits for programs."""
  return {part: [row[f"time/{part}"] for row in _steps(workdir)]
          for part in cost.PARTS}


def flops(workdir: pathlib.Path) -> dict[str, float]:
  """Mean FLOPs of each part of a run's steps, see `utilization.done_in`."""
  work = counted(str(workdir))
  done = [utilization.done_in(row, work) for row in _steps(workdir)]
  return {part: statistics.fmean(one[part] for one in done)
          for part in cost.PARTS if part in done[0]}


def _steps(workdir: pathlib.Path) -> list[Mapping[str, float]]:
  return [row for row in metrics.rows(workdir)
          if row["step"] > 1 and "time/update" in row]


def counted(workdir: str) -> utilization.Work:
  """The FLOPs of a run's programs, which are only traced."""
  cfg = validate.from_dict(saved_params.settings(workdir))
  setup = setup_lib.make(cfg)
  with jax.set_mesh(setup.mesh):
    tx, _, abstract = train_state.for_rl(setup)
    return utilization.counted(
      setup, functools.partial(train.make_programs, tx=tx, abstract=abstract),
      (abstract, *rollout.input_shapes(setup)), peak=float("nan"))
