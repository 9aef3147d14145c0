"""Seconds per step of all rows of a claim, by short runs in turns.

Whatever else slows the machine slows the rows alike, and medians leave single
hindrances out. Take times on a machine that has nothing else to do.
"""

import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.claims import runner
from benchmarks.claims import runs
from dlrl.runtime import progress
from dlrl.storage import metrics

STEPS, TURNS = 12, 3  # of a run that is timed, and such runs per row
PARTS = ("rollout", "update")
# Held-out items are not timed, so that few do.
SHORT: dict[str, Any] = {
  "steps": STEPS, "eval.every": STEPS, "eval.size": 32, "eval.batch_size": 32}


def measure(rows: Sequence[runs.Row], workdirs: pathlib.Path
            ) -> dict[str, dict[str, float]]:
  """Median seconds of a rollout and an update, by the label of a claim's row.
  """
  found: dict[str, dict[str, list[float]]] = {
    row.label: {part: [] for part in PARTS} for row in rows}
  turns = [(turn, place, row) for turn in range(TURNS)
           for place, row in enumerate(rows)]
  for turn, place, row in progress.watched(turns, "runs that are timed"):
    workdir = workdirs / "timed" / f"{row.claim}-{place}-{turn}"
    _train(row, workdirs, workdir)
    for part, values in seconds(workdir).items():
      found[row.label][part] += values
  return {label: {part: statistics.median(values)
                  for part, values in parts.items()}
          for label, parts in found.items()}


def _train(row: runs.Row, workdirs: pathlib.Path, workdir: pathlib.Path
           ) -> None:
  runner.finish(row.run(row.seeds[0]), workdirs, workdir, **SHORT)


def seconds(workdir: pathlib.Path) -> dict[str, list[float]]:
  """Of each part of a run's steps, but the first, which waits for programs."""
  rows = [row for row in metrics.rows(workdir) if row["step"] > 1]
  return {part: [row[f"time/{part}"] for row in rows if f"time/{part}" in row]
          for part in PARTS}
