"""Stored results: one JSON file per finished run, and some of measurements."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.claims import runs as runs_lib
from dlrl.run import summary as summary_lib
from dlrl.storage import metrics
from dlrl.storage import workdir as workdir_lib

WINDOW = 10  # steps whose rewards are averaged into one number
Result = Mapping[str, Any]  # see `collect`
Stored = Mapping[str, Result]  # by the name of the run


def read(directory: pathlib.Path) -> Stored:
  """All finished runs."""
  return {path.stem: json.loads(path.read_text(encoding="utf-8"))
          for path in sorted(directory.glob("runs/*.json"))}


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
  return (directory / "runs" / f"{run.name}.json").exists()


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
  rewards = [row["reward/mean"] for row in rows if "reward/mean" in row]
  found = {
    "config": run.config,
    "settings": dict(run.settings),
    "seed": run.seed,
    "warm": run.warm and run.warm.name,
    "before": summary["before"]["solved"],
    "after": summary["after"]["solved"],
    "items": summary["n_eval"],
    "curve": [[row["step"], row["eval/solved"]] for row in rows
              if "eval/solved" in row],
    # Means over `WINDOW` steps: of the rollouts' rewards, at no extra cost.
    "rewards": [round(float(np.mean(rewards[i:i + WINDOW])), 4)
                for i in range(0, len(rewards), WINDOW)],
  }
  write_one(directory / "runs", run.name, found)


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
