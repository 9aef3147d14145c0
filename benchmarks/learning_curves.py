"""Held-out accuracy over RL steps, for several seeds of one config.

    python -m benchmarks.learning_curves --config=configs/bgpo.py \\
        --seeds=5 --out=benchmarks/results

Runs `python -m dlrl.main` once per seed and continues runs that were stopped.
Writes `learning_NAME.json` and `learning_NAME.png`. A seed takes as long as its
config says. `before` and `after` are accuracies on test items, after
fine-tuning and after RL; `curve` holds the evaluations on the way, on the items
of `eval.split`.
"""

import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
from absl import app
from absl import flags
from matplotlib import figure

from benchmarks import results
from dlrl.run import summary as summary_lib
from dlrl.storage import metrics

_CONFIG = flags.DEFINE_string(
  "config", "configs/bgpo.py", "config of every run, as dlrl.main takes it")
_SEEDS = flags.DEFINE_integer(
  "seeds", 5, "number of seeds, counted from 0", lower_bound=1)
_SET = flags.DEFINE_multi_string(
  "set", [], "setting to override, for example steps=300; can be repeated")
_NAME = flags.DEFINE_string(
  "name", "bgpo", "name of the result files, after learning_")
_RUNS = flags.DEFINE_string(
  "runs", "runs/learning", "directory of the runs' workdirs")

# Titles by --name; other names are shown with their config and settings.
TITLES = {
  "bgpo": "BGPO on 4x4 Sudoku",
  "bgpo_blocks": "BGPO with the exact ELBO of blocks, 4x4 Sudoku",
  "bgpo_blocks_ebpo": "BGPO with 16 of EBPO's draws of blocks, 4x4 Sudoku",
  "bgpo_blocks_global": "BGPO with 16 of its own draws of blocks, 4x4 Sudoku",
  "bgpo_countdown": "BGPO on three-digit Countdown",
  "bgpo_plain": "The paper's BGPO objective (failures at full weight), "
                "learning rate 2e-4, 4x4 Sudoku",
  "bgpo_text": "BGPO on a number between two others, in English words",
  "bgpo_undamped": "BGPO with failures at full weight "
                   "(learn.negative_weight = 1), 4x4 Sudoku",
  "stp": "BGPO with pruned rollouts (STP) on 4x4 Sudoku",
  "stp_countdown": "BGPO with pruned rollouts (STP) on three-digit Countdown",
}


def run_seed(seed: int) -> dict[str, Any]:
  """Trains with one seed; returns its curve and its accuracy at both ends."""
  workdir = _workdir(seed)
  command = [sys.executable, "-m", "dlrl.main", f"--config={_CONFIG.value}",
             f"--workdir={workdir}", f"--config.seed={seed}"]
  subprocess.run(command + [f"--config.{s}" for s in _SET.value], check=True)
  summary = _summary(seed)
  rows = [row for row in metrics.rows(workdir) if "eval/solved" in row]
  return {
    "seed": seed,
    "before": summary["before"],
    "after": summary["after"],
    "wall_seconds": summary["wall_seconds"],
    "phase_seconds": summary["phase_seconds"],
    "curve": [[row["step"], row["eval/solved"]] for row in rows],
  }


def _workdir(seed: int) -> pathlib.Path:
  return pathlib.Path(_RUNS.value) / f"{_NAME.value}-{seed}"


def _summary(seed: int) -> dict[str, Any]:
  summary = summary_lib.read(_workdir(seed))
  assert summary is not None  # every run that ends well writes one
  return summary


def measure() -> dict[str, Any]:
  """Trains with all seeds, one after the other."""
  runs = [run_seed(seed) for seed in range(_SEEDS.value)]
  sets = "".join(f" --set={s}" for s in _SET.value)
  return {
    "command": f"python -m benchmarks.learning_curves --config={_CONFIG.value}"
               f" --seeds={_SEEDS.value} --name={_NAME.value}{sets}",
    "config": _CONFIG.value,
    "set": _SET.value,
    "n_eval": _summary(0)["n_eval"],
    "runs": runs,
  }


def plot(result: dict[str, Any]) -> figure.Figure:
  """One line per seed, their mean, and the baseline: before RL."""
  runs = result["runs"]
  several = len(runs) > 1
  fallback = " ".join([result["config"], *result["set"]])
  fig, (ax,) = results.page(
    TITLES.get(_NAME.value, fallback), size=(7, 4.8))
  for run, colour in zip(runs, results.COLOURS * len(runs), strict=False):
    steps, solved = np.array(run["curve"]).T
    ends = [100 * run[end]["solved"] for end in ("before", "after")]
    ax.plot(steps, 100 * solved, color=colour, lw=1.0 if several else 2.0,
            label=f"seed {run['seed']}: {ends[0]:.1f} → {ends[1]:.1f}")
  # Runs share a config, and so the steps at which they evaluate.
  mean = 100 * np.mean([np.array(run["curve"])[:, 1] for run in runs], 0)
  if several:
    ends = [100 * result["over_seeds"][end]["mean"]
            for end in ("before", "after")]
    ax.plot(steps, mean, color="black", lw=2.5,
            label=f"mean: {ends[0]:.1f} → {ends[1]:.1f}")
  ax.axhline(mean[0], color=results.BASELINE, ls="--", lw=1.2,
             label="baseline: fine-tuned, before RL"
             + (", mean" if several else ""))
  countdown = "countdown" in result["config"]
  unit = ("problems" if countdown else "questions"
          if result["config"].endswith(":text") else "puzzles")
  ax.set(xlabel="RL step", ylabel=f"held-out {unit} solved (%)")
  # One scale per task, so that its figures compare; Countdown's lines are too
  # close to one another for the whole scale.
  ax.set_ylim(*((40, 70) if countdown else (-2, 102)))
  fig.legend(
    loc="outside lower left", ncols=3, frameon=False, fontsize=9,
    title_fontsize=9, alignment="left",
    title=f"{result['n_eval']} test {unit} solved (%), before → after RL")
  return fig


def table(result: dict[str, Any]) -> str:
  """Accuracy on test items before and after RL: each seed's, and the mean."""
  lines = [
    f"seed {run['seed']}: {run['before']['solved']:.1%} -> "
    f"{run['after']['solved']:.1%} in {run['wall_seconds']:.0f} s"
    for run in result["runs"]]
  for name, found in result["over_seeds"].items():
    interval = (f" [{found['low']:.1%}, {found['high']:.1%}], 95% t interval"
                if "low" in found else ", one seed: no interval")
    lines.append(f"mean {name}: {found['mean']:.1%}{interval}")
  return "\n".join(lines)


def main(argv: list[str]) -> None:
  """Trains with all seeds, or reads what was stored, and reports."""
  del argv
  name = f"learning_{_NAME.value}"
  result = results.obtain(name, measure)
  # Results stored by older versions have no intervals over seeds.
  result["over_seeds"] = results.over_seeds(result["runs"])
  results.write(name, result)
  results.show(name, plot(result), table(result))


if __name__ == "__main__":
  flags.adopt_module_key_flags(results)
  app.run(main)
