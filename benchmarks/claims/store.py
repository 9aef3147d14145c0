"""Stored results: one JSON file per run, and some of measurements.

A run that has failed has its file in `failed/` until it finishes. Files are
written whole or not at all.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.claims import runs as runs_lib
from dlrl.run import summary as summary_lib
from dlrl.storage import metrics
from dlrl.storage import workdir as workdir_lib

_LONGEST = 300  # characters of an error
WINDOW = 10  # steps whose rewards are averaged into one number
Result = Mapping[str, Any]  # see `collect`
Stored = Mapping[str, Result]  # by the name of the run
Failed = Mapping[str, str]  # what ended runs without a result, by their name


def read(directory: pathlib.Path) -> Stored:
  """All finished runs."""
  return {path.stem: json.loads(path.read_text(encoding="utf-8"))
          for path in sorted(directory.glob("runs/*.json"))}


def read_failed(directory: pathlib.Path) -> Failed:
  """All runs that have failed and have not finished since."""
  found = {path.stem: json.loads(path.read_text(encoding="utf-8"))["error"]
           for path in sorted(directory.glob("failed/*.json"))}
  return {name: error for name, error in found.items()
          if not _path(directory, name).exists()}


def read_one(directory: pathlib.Path, name: str) -> Any:
  """What was measured into `NAME.json`; None if that is not there."""
  path = directory / f"{name}.json"
  return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_one(directory: pathlib.Path, name: str, found: Any) -> None:
  """Writes `NAME.json`, all of it or nothing."""
  directory.mkdir(parents=True, exist_ok=True)
  workdir_lib.write_json(directory / f"{name}.json", found)


def has(directory: pathlib.Path, run: runs_lib.Run) -> bool:
  """Whether a run's result is stored."""
  return _path(directory, run.name).exists()


def _path(directory: pathlib.Path, name: str) -> pathlib.Path:
  return directory / "runs" / f"{name}.json"


def fail(directory: pathlib.Path, run: runs_lib.Run, log: pathlib.Path) -> None:
  """Stores that a run has failed, and the last line of its log."""
  lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
  last = next((line for line in reversed(lines) if line.strip()), "")
  write_one(directory / "failed", run.name, {
    "config": run.config, "settings": dict(run.settings), "seed": run.seed,
    "error": "".join(filter(str.isprintable, last))[:_LONGEST]})


def collect(directory: pathlib.Path, run: runs_lib.Run, workdir: pathlib.Path
            ) -> None:
  """Stores the result of a run that has finished in its workdir.

  Raises:
    ValueError: it has not finished.
  """
  summary = summary_lib.read(workdir)
  if summary is None:
    raise ValueError(f"{workdir}: the run has not finished")
  rows = list(metrics.rows(workdir))
  # Null where it was not a number.
  rewards = [row["reward/mean"] for row in rows
             if row.get("reward/mean") is not None]
  warm = run.warm and summary_lib.read(run.warm.workdir(workdir.parent))
  found = {
    "config": run.config,
    "settings": dict(run.settings),
    "seed": run.seed,
    "warm": run.warm and run.warm.name,
    "before": summary["before"]["solved"],
    "after": summary["after"]["solved"],
    "items": summary["n_eval"],
    # On whatever else the machine did meanwhile; of the fine-tuning, too.
    "hours": [round(one["wall_seconds"] / 3600, 3)
              for one in (warm, summary) if one],
    "curve": [[row["step"], row["eval/solved"]] for row in rows
              if row.get("eval/solved") is not None],
    # Means over `WINDOW` steps: of the rollouts' rewards, at no extra cost.
    "rewards": [round(float(np.mean(rewards[i:i + WINDOW])), 4)
                for i in range(0, len(rewards), WINDOW)],
  }
  write_one(directory / "runs", run.name, found)
  (directory / "failed" / f"{run.name}.json").unlink(missing_ok=True)


def area(result: Result) -> float:
  """Mean held-out accuracy over the steps, by trapezoids."""
  steps, solved = np.array(result["curve"]).T
  return float(np.trapezoid(solved, steps) / (steps[-1] - steps[0]))


def at_step(result: Result, step: float) -> float:
  """Held-out accuracy, linear between evaluations."""
  return float(np.interp(step, *np.array(result["curve"]).T))


def collapsed(result: Result) -> bool:
  """Whether RL has lost more than half of what the warm start could."""
  return bool(result["after"] < result["before"] / 2)
