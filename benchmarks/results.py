"""Result files of the benchmarks, and the look of their figures.

A benchmark measures into `OUT/NAME.json`, draws `OUT/NAME.png` from that file
and prints a table. To redraw a figure without measuring, add `--plot_only` to
the command that made it; most JSON files name theirs.
"""

import json
import pathlib
import shlex
import sys
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from matplotlib import axes
from matplotlib import figure
from scipy import stats

from dlrl.storage import plots

OUT = flags.DEFINE_string(
  "out", "benchmarks/results", "directory of the result files")
PLOT_ONLY = flags.DEFINE_boolean(
  "plot_only", False,
  "draw and print what the stored JSON holds; measure nothing")

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
BASELINE = "#555555"
Points = Sequence[tuple[float, float]]


def command() -> str:
  """The command line to store with a result."""
  path = pathlib.Path(sys.argv[0])
  name = path.parent.name if path.stem == "__main__" else path.stem
  return shlex.join(["python", "-m", f"benchmarks.{name}", *sys.argv[1:]])


def read(name: str) -> Any:
  """The content of `NAME.json`."""
  path = pathlib.Path(OUT.value) / f"{name}.json"
  return json.loads(path.read_text(encoding="utf-8"))


def write(name: str, result: Any) -> None:
  """Writes `NAME.json`; of a list, one element per line."""
  if isinstance(result, list):
    text = "[\n" + ",\n".join(map(json.dumps, result)) + "\n]"
  else:
    text = json.dumps(result, indent=1)
  directory = pathlib.Path(OUT.value)
  directory.mkdir(parents=True, exist_ok=True)
  (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def obtain(name: str, measure: Callable[[], Any]) -> Any:
  """Measures and writes `NAME.json`; with `--plot_only` only reads it."""
  if PLOT_ONLY.value:
    return read(name)
  result = measure()
  write(name, result)
  return result


def show(name: str, fig: figure.Figure, table: str) -> None:
  """Writes `NAME.png` and prints the table."""
  fig.savefig(pathlib.Path(OUT.value) / f"{name}.png")
  print(table, flush=True)


def mean_interval(values: Sequence[float]) -> dict[str, float]:
  """Mean over seeds with a 95% t interval; without one for a single seed."""
  mean = float(np.mean(values))
  if len(values) < 2:
    return {"mean": mean}
  half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
  return {"mean": mean, "low": mean - half, "high": mean + half}


def over_seeds(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
  """Mean accuracy on test items and its 95% t interval over seeds.

  `gain` is the mean over seeds of the accuracy after RL less the one before.
  """
  before, after = ([run[end]["solved"] for run in runs]
                   for end in ("before", "after"))
  gain = [b - a for a, b in zip(before, after, strict=True)]
  found = {"before": mean_interval(before), "after": mean_interval(after)}
  for interval in found.values():
    if "low" in interval:  # a t interval can leave the range of accuracies
      interval.update(low=max(0.0, interval["low"]),
                      high=min(1.0, interval["high"]))
  return found | {"gain": mean_interval(gain)}


def page(
  title: str, *, rows: int = 1, columns: int = 1, size: tuple[float, float]
) -> tuple[figure.Figure, list[axes.Axes]]:
  """A figure of `size` inches and its panels, row by row.

  The README and the docs show a page some 8 inches wide, so text of 9 points is
  still legible on pages up to that width.
  """
  # Not pyplot, which keeps every figure alive.
  fig = figure.Figure(figsize=size, dpi=150, layout="constrained")
  fig.suptitle(title, x=0.01, ha="left", fontsize=11, color=plots.INK)
  panels = list(fig.subplots(rows, columns, squeeze=False).flat)
  for ax in panels:
    ax.grid(alpha=0.3)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
  return fig, panels


def ticks(ax: axes.Axes, *, x: Sequence[float] = (), y: Sequence[float] = ()
          ) -> None:
  """Logarithmic axes with these ticks, in plain numbers; empty: linear."""
  for axis, scale, values in (
      (ax.xaxis, ax.set_xscale, x), (ax.yaxis, ax.set_yscale, y)):
    if values:
      scale("log")
      axis.set_ticks(values, [f"{v:g}" for v in values])
      axis.set_ticks([], minor=True)


def coinciding(
  lines: Mapping[str, Points], tolerance: float = 0.02
) -> list[list[str]]:
  """Groups of lines that would hide one another in a figure.

  A line joins the first group whose first line it stays within `tolerance` of,
  relative, wherever both have values.
  """
  groups: list[list[str]] = []
  for name, points in lines.items():
    for group in groups:
      if _close(points, lines[group[0]], tolerance):
        group.append(name)
        break
    else:
      groups.append([name])
  return groups


def draw_groups(
  ax: axes.Axes, lines: Mapping[str, Points], baselines: Mapping[str, str]
) -> None:
  """Draws lines in the order of their ends, coinciding ones as one line.

  Args:
    ax: the panel.
    lines: points of each line, in ascending order.
    baselines: legends of the lines that the others are compared with; these
      are drawn in grey and never join a group.
  """
  groups = coinciding({name: points for name, points in lines.items()
                       if name not in baselines})
  longest = [max((lines[name] for name in group),
                 key=lambda points: (len(points), -points[0][0]))
             for group in groups]
  shown = [(", ".join(group), points, colour, "o") for group, points, colour
           in zip(groups, longest, COLOURS, strict=False)]
  greys = zip(baselines, (("black", "s"), (BASELINE, "^")), strict=False)
  shown += [(baselines[name], lines[name], *look) for name, look in greys
            if name in lines]
  shown.sort(key=lambda line: -line[1][-1][1])
  for i, (label, points, colour, marker) in enumerate(shown):
    # Where lines coincide, the lower one is drawn on top and narrower, so that
    # both are visible.
    ax.plot(*zip(*points, strict=True), color=colour, marker=marker,
            markersize=4.5, lw=3 - 1.5 * i / len(shown), label=label)


def _close(a: Points, b: Points, tolerance: float) -> bool:
  (x, y), (at, other) = (np.array(line).T for line in (a, b))
  shared = (x >= at[0]) & (x <= at[-1])
  # Between two points memory is linear in the number of samples.
  wanted = np.interp(x[shared], at, other)
  return bool(np.all(abs(y[shared] - wanted) <= tolerance * wanted))
