"""Compares learning by caches and a threshold with that by exact rollouts.

    python -m benchmarks.decoding_modes --out=benchmarks/results

A cache and a threshold draw rollouts from another distribution than the policy
that is trained, in exchange for less computation. This trains the model of
`configs/bgpo.py` on 4x4 Sudoku, decoded in four blocks of four tokens, once per
mode and seed. All modes of a seed begin with the same fine-tuned model. They
are evaluated alike: without a cache, one token at a time. Runs that were
stopped go on.

Seconds per step are measured apart, by runs of a few steps of all modes in
turns, so that other load on the machine slows all of them; `--times` does so
for a stored result and trains nothing. Writes `decoding_modes.json` and
`decoding_modes.png`, and prints the table of `docs/models.md`. A run takes
about two minutes of one core.
"""

import pathlib
import statistics
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

_SEEDS = flags.DEFINE_integer(
  "seeds", 5, "number of seeds, counted from 0", lower_bound=2)
_RUNS = flags.DEFINE_string(
  "runs", "runs/decoding_modes", "directory of the runs' workdirs")
_TIMES = flags.DEFINE_boolean(
  "times", False, "measure the seconds per step of a stored result anew")

CONFIG = "configs/bgpo.py"
EXACT = "exact"
MODES: dict[str, dict[str, Any]] = {
  EXACT: {},
  "prefix cache": {"cache": "prefix"},
  "dual cache": {"cache": "dual"},
  "threshold 0.9": {"threshold": 0.9},
  "dual cache, threshold 0.9": {"cache": "dual", "threshold": 0.9},
}
BLOCK = 4
# Easier puzzles than by default, because three layers can seldom see to it that
# the first row is right before the others are begun.
COMMON = {
  "mesh.cpu_devices": 1,
  "eval.sampler.block_length": BLOCK,
  "eval.difficulty": "(7,10)",
}
RL = {
  "rollout.difficulty": "(7,10)",
  "rollout.sampler.block_length": BLOCK,
  # Fewer draws and steps, because there are 25 runs, and a rate at which the
  # first of them lose little.
  "learn.n_mc": 4,
  "learn.optimizer.learning_rate": 1e-3,
  "steps": 80,
  "sft.steps": 0,
}
TIMED, TURNS = 12, 3  # steps of a run that is timed, and such runs per mode
PARTS = ("rollout", "update")
NAME = "decoding_modes"


def start(workdir: pathlib.Path, config: str, **settings: Any) -> None:
  """Runs a config in its workdir, or goes on with it, until it is finished."""
  subprocess.run(
    [sys.executable, "-m", "dlrl.main", f"--config={config}",
     f"--workdir={workdir}",
     *(f"--config.{k}={v}" for k, v in (COMMON | settings).items())],
    check=True)


def start_rl(workdir: pathlib.Path, mode: str, seed: int, **settings: Any
             ) -> None:
  """RL of a mode, from the fine-tuned model of the seed."""
  sampler = {f"rollout.sampler.{k}": v for k, v in MODES[mode].items()}
  tuned = _root() / f"tuned-{seed}"
  start(workdir, CONFIG, **(
    RL | sampler | {"seed": seed, "init_from": tuned} | settings))


def train(mode: str, seed: int) -> dict[str, Any]:
  """The curve of a run, and its accuracy at both ends."""
  workdir = _root() / f"{mode.replace(' ', '_').replace(',', '')}-{seed}"
  start_rl(workdir, mode, seed)
  summary = summary_lib.read(workdir)
  assert summary is not None  # every run that ends well writes one
  rows = list(metrics.rows(workdir))
  steps = [row["rollout/forwards"] for row in rows if "rollout/forwards" in row]
  return {
    "seed": seed, "before": summary["before"], "after": summary["after"],
    "forwards": float(np.mean(steps)),
    "curve": [[row["step"], row["eval/solved"]] for row in rows
              if "eval/solved" in row]}


def measure() -> dict[str, Any]:
  """Trains all modes with all seeds, seed by seed."""
  modes: dict[str, Any] = {mode: {"runs": []} for mode in MODES}
  for seed in range(_SEEDS.value):
    start(_root() / f"tuned-{seed}", "configs/sft.py", seed=seed)
    for mode in MODES:
      modes[mode]["runs"].append(train(mode, seed))
  return {"command": results.command(), "common": COMMON, "rl": RL,
          "modes": modes, "seconds": seconds()}


def seconds() -> dict[str, dict[str, float]]:
  """Median seconds of rollout and update per mode, by short runs in turns."""
  found: dict[str, dict[str, list[float]]] = {
    mode: {part: [] for part in PARTS} for mode in MODES}
  for turn in range(TURNS):
    for number, mode in enumerate(MODES):
      workdir = _root() / f"timed-{number}-{turn}"
      start_rl(workdir, mode, 0, steps=TIMED, **{"eval.every": TIMED})
      # The first step waits for what is compiled and read.
      for row in list(metrics.rows(workdir))[1:]:
        for part, values in found[mode].items():
          if f"time/{part}" in row and row["step"] > 1:
            values.append(row[f"time/{part}"])
  return {mode: {part: statistics.median(values)
                 for part, values in parts.items()}
          for mode, parts in found.items()}


def _root() -> pathlib.Path:
  return pathlib.Path(_RUNS.value).absolute()


def at_equal_time(result: dict[str, Any], mode: str) -> list[float]:
  """Each seed's accuracy when the fastest mode has finished its steps.

  Between two evaluations accuracy is taken to be linear in time.
  """
  step = {name: sum(parts.values())
          for name, parts in result["seconds"].items()}
  steps = result["rl"]["steps"] * min(step.values()) / step[mode]
  return [float(np.interp(steps, *np.array(run["curve"]).T))
          for run in result["modes"][mode]["runs"]]


def percent(found: dict[str, float], *, signed: bool = False) -> str:
  """A mean with its interval over seeds, as a table has it."""
  sign = "+" if signed else ""
  mean, low, high = (f"{100 * found[key]:{sign}.1f}"
                     for key in ("mean", "low", "high"))
  return f"{mean} [{low}, {high}]"


def table(result: dict[str, Any]) -> str:
  """Accuracy of each mode, and differences to the exact one of the same seed.
  """
  lines = ["| rollouts | forward passes | rollout, s | update, s | solved, % | "
           "difference | at equal time, % |",
           "| --- " * 7 + "|"]
  exact = [run["after"]["solved"] for run in result["modes"][EXACT]["runs"]]
  for mode, found in result["modes"].items():
    after = [run["after"]["solved"] for run in found["runs"]]
    passes = statistics.mean(run["forwards"] for run in found["runs"])
    difference = results.mean_interval(
      [a - b for a, b in zip(after, exact, strict=True)])
    lines.append(" | ".join([
      f"| {mode}", f"{passes:.1f}",
      *(f"{result['seconds'][mode][part]:.3f}" for part in PARTS),
      percent(results.mean_interval(after)),
      "" if mode == EXACT else percent(difference, signed=True),
      percent(results.mean_interval(at_equal_time(result, mode)))]) + " |")
  before = [run["before"]["solved"] for run in result["modes"][EXACT]["runs"]]
  lines.append(f"\nbefore RL: {percent(results.mean_interval(before))}")
  return "\n".join(lines)


def plot(result: dict[str, Any]) -> figure.Figure:
  """Mean accuracy over the steps, and over measured seconds."""
  seeds = len(result["modes"][EXACT]["runs"])
  fig, panels = results.page(
    f"Rollouts by approximate decoding, 4x4 Sudoku, mean of {seeds} seeds",
    columns=2, size=(9, 4.2))
  for (mode, found), colour in zip(
      result["modes"].items(), (results.BASELINE, *results.COLOURS),
      strict=False):
    steps = np.array(found["runs"][0]["curve"])[:, 0]
    solved = 100 * np.mean(
      [np.array(run["curve"])[:, 1] for run in found["runs"]], 0)
    label = f"baseline: {mode}" if mode == EXACT else mode
    step = sum(result["seconds"][mode].values())
    for ax, x in zip(panels, (steps, steps * step), strict=True):
      ax.plot(x, solved, color=colour, marker="o", markersize=3.5,
              ls="--" if mode == EXACT else "-", label=label)
  panels[0].set(xlabel="RL step", ylabel="held-out puzzles solved (%)")
  panels[1].set(xlabel="seconds of rollouts and updates")
  handles, labels = panels[0].get_legend_handles_labels()
  fig.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False,
             fontsize=9)
  return fig


def main(argv: list[str]) -> None:
  """Trains with all modes, or reads what was stored, and reports."""
  del argv
  if _TIMES.value:
    result = results.read(NAME) | {"seconds": seconds()}
    results.write(NAME, result)
  else:
    result = results.obtain(NAME, measure)
  results.show(NAME, plot(result), table(result))


if __name__ == "__main__":
  flags.adopt_module_key_flags(results)
  app.run(main)
