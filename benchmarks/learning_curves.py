"""Held-out accuracy over RL steps, for several seeds of one config.

    python -m benchmarks.learning_curves --config=configs/bgpo.py \\
        --seeds=5 --out=benchmarks/results

Runs `python -m dlrl.main` once per seed, continues what was interrupted, and
writes `learning_NAME.json` and `learning_NAME.png`. A seed takes as long as the
config says.
"""

import json
import pathlib
import subprocess
import sys
from typing import Any

from absl import app
from absl import flags
from matplotlib import figure

from dlrl.run import summary as summary_lib
from dlrl.storage import metrics

_CONFIG = flags.DEFINE_string("config", "configs/bgpo.py", "as of dlrl.main")
_SEEDS = flags.DEFINE_integer("seeds", 5, "how many, from 0", lower_bound=1)
_SET = flags.DEFINE_multi_string("set", [], "override, as steps=300")
_NAME = flags.DEFINE_string("name", "bgpo", "of the result files")
_OUT = flags.DEFINE_string("out", "benchmarks/results", "directory")
_RUNS = flags.DEFINE_string("runs", "runs/learning", "where the runs live")


def run_seed(seed: int) -> dict[str, Any]:
  """Trains with one seed; its curve and its end."""
  workdir = pathlib.Path(_RUNS.value) / f"{_NAME.value}-{seed}"
  command = [sys.executable, "-m", "dlrl.main", f"--config={_CONFIG.value}",
             f"--workdir={workdir}", f"--config.seed={seed}"]
  subprocess.run(command + [f"--config.{s}" for s in _SET.value], check=True)
  summary = summary_lib.read(workdir)
  assert summary is not None  # written by every run that ends well
  rows = [row for row in metrics.rows(workdir) if "eval/solved" in row]
  return {
    "seed": seed,
    "before": summary["before"],
    "after": summary["after"],
    "wall_seconds": summary["wall_seconds"],
    "phase_seconds": summary["phase_seconds"],
    "curve": [[row["step"], row["eval/solved"]] for row in rows],
  }


def plot(result: dict[str, Any], path: pathlib.Path) -> None:
  """One line per seed."""
  fig = figure.Figure(figsize=(7, 4.2), layout="constrained")
  ax = fig.add_subplot()
  for run in result["runs"]:
    steps, solved = zip(*run["curve"], strict=True)
    ax.plot(steps, [100 * s for s in solved], marker="o", markersize=3,
            label=f"seed {run['seed']}")
  ax.set(xlabel="RL step", ylabel="held-out puzzles solved, %", ylim=(0, 100),
         title=" ".join([result["config"], *result["set"]]))
  ax.grid(alpha=0.3)
  ax.spines[["top", "right"]].set_visible(False)
  ax.legend(frameon=False, loc="lower right")
  fig.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
  """Runs all seeds, then writes both files."""
  del argv
  runs = [run_seed(seed) for seed in range(_SEEDS.value)]
  sets = "".join(f" --set={s}" for s in _SET.value)
  summary = summary_lib.read(
    pathlib.Path(_RUNS.value) / f"{_NAME.value}-0")
  assert summary is not None
  result = {
    "command": f"python -m benchmarks.learning_curves --config={_CONFIG.value}"
               f" --seeds={_SEEDS.value} --name={_NAME.value}{sets}",
    "config": _CONFIG.value,
    "set": _SET.value,
    "n_eval": summary["n_eval"],
    "runs": runs,
  }
  out = pathlib.Path(_OUT.value)
  out.mkdir(parents=True, exist_ok=True)
  (out / f"learning_{_NAME.value}.json").write_text(
    json.dumps(result, indent=1) + "\n")
  plot(result, out / f"learning_{_NAME.value}.png")
  for run in runs:
    print(f"seed {run['seed']}: {run['before']['solved']:.1%} -> "
          f"{run['after']['solved']:.1%} in {run['wall_seconds']:.0f} s")


if __name__ == "__main__":
  app.run(main)
