"""Learning curves of one run as a page of small panels."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

from matplotlib import axes
from matplotlib import figure
from matplotlib import ticker
from matplotlib.backends import backend_agg

BLUE, ORANGE, GREEN = "#2a6fbb", "#d9822b", "#3f9c6d"
INK, PALE = "#333333", "#d9d9d9"
Rows = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Panel:
  """One plot: lines `(key, legend, colour)`, and how to read them.

  Attributes:
    title: above the panel.
    lines: those whose key no row has are left out, and with none, the panel.
    band: keys of the lower and upper edge, or of the middle and its deviation.
    deviation: whether `band` is of the second kind.
    share: whether the values are shares, drawn on the scale 0 to 1 if they fit.
    points: whether the measurements are few and each gets a dot.
    robust: whether a few outliers, such as compilations, may leave the panel.
  """

  title: str
  lines: tuple[tuple[str, str, str], ...]
  band: tuple[str, str] | None = None
  deviation: bool = False
  share: bool = False
  points: bool = False
  robust: bool = False


PANELS = (
  Panel("held-out accuracy, 95% interval",
        (("eval/solved", "solved", ORANGE), ("test/solved", "test", GREEN)),
        band=("eval/solved_low", "eval/solved_high"), share=True, points=True),
  Panel("training rollouts",
        (("reward/mean", "reward", BLUE), ("rollout/solved", "solved", ORANGE)),
        share=True),
  Panel("groups of equal rewards (no gradient)",
        (("update/zero_groups", "share", BLUE),), share=True),
  Panel("ELBO per completion, mean ± std",
        (("update/score_mean", "mean", BLUE),),
        band=("update/score_mean", "update/score_std"), deviation=True),
  Panel("gradient norm", (("update/grad_norm", "norm", BLUE),)),
  Panel("seconds per step (outliers cut)",
        (("time/rollout", "rollout", BLUE), ("time/reward", "reward", GREEN),
         ("time/update", "update", ORANGE)), robust=True),
  Panel("fine-tuning loss", (("sft/loss", "loss", BLUE),)),
)


def curves(rows: Rows, path: str | os.PathLike[str], *, title: str) -> None:
  """Writes a PNG with the panels for which `rows` have numbers.

  Args:
    rows: as `metrics.rows` gives them; keys may be absent or null.
    path: of the PNG.
    title: above the page.

  Raises:
    ValueError: there is nothing to draw.
  """
  panels = [panel for panel in PANELS
            if any(_series(rows, key)[0] for key, _, _ in panel.lines)]
  if not panels:
    raise ValueError(f"no metric that has a panel in {len(rows)} rows")
  columns = min(len(panels), 3)
  height = math.ceil(len(panels) / columns)
  # Not pyplot: it keeps every figure alive and picks a backend per process.
  page = figure.Figure(figsize=(4.2 * columns, 2.7 * height + 0.5), dpi=150,
                       layout="constrained")
  backend_agg.FigureCanvasAgg(page)
  page.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
  last = max(row["step"] for row in rows)
  for i, panel in enumerate(panels):
    ax = page.add_subplot(height, columns, i + 1)
    _draw(ax, panel, rows)
    ax.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    ax.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    if i + columns >= len(panels):
      ax.set_xlabel("step", fontsize=9, color=INK)
  page.savefig(path, format="png")


def _draw(ax: axes.Axes, panel: Panel, rows: Rows) -> None:
  drawn = []
  for key, label, colour in panel.lines:
    x, y = _series(rows, key)
    if x:
      # Two points, before and after, say nothing of the way between them.
      ax.plot(x, y, color=colour, label=label, lw=1.6 if len(x) > 2 else 0,
              marker="o" if panel.points or len(x) <= 2 else "", ms=4)
      drawn += y
  if panel.band:
    x, low, high = _band(panel, rows)
    ax.fill_between(x, low, high, color=panel.lines[0][2], alpha=0.2, lw=0)
  if panel.share and min(drawn) >= 0 and max(drawn) <= 1:
    ax.set_ylim(-0.02, 1.02)
  elif panel.robust:
    # A compiling step is a hundred times as long as the others.
    usual = sorted(drawn)[int(0.98 * (len(drawn) - 1))]
    ax.set_ylim(0, 1.15 * usual or 1)
  ax.set_title(panel.title, loc="left", fontsize=9.5, color=INK)
  if len(panel.lines) > 1:
    ax.legend(frameon=False, fontsize=8, labelcolor=INK)
  ax.grid(axis="y", color=PALE, lw=0.6)
  ax.set_axisbelow(True)
  ax.spines[["top", "right"]].set_visible(False)
  ax.spines[["left", "bottom"]].set_color(PALE)
  ax.tick_params(labelsize=8, labelcolor=INK, color=PALE)


def _series(rows: Rows, *keys: str) -> tuple[list[float], ...]:
  """Steps, then the values of each key, of the rows that have them all."""
  kept = [(row["step"], *(row[key] for key in keys)) for row in rows
          if all(row.get(key) is not None for key in keys)]
  return tuple(map(list, zip(*kept, strict=True))) if kept else (
    [], *([] for _ in keys))


def _band(panel: Panel, rows: Rows) -> tuple[list[float], ...]:
  assert panel.band
  x, a, b = _series(rows, *panel.band)
  if not panel.deviation:
    return x, a, b
  return (x, [m - s for m, s in zip(a, b, strict=True)],
          [m + s for m, s in zip(a, b, strict=True)])
