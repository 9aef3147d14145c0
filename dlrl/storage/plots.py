"""The figure `curves.png`: a run's metrics as a page of small panels."""

import dataclasses
import io
import math
import os
from collections.abc import Sequence
from typing import Any

from matplotlib import axes
from matplotlib import figure
from matplotlib import ticker

from dlrl.runtime import own_files

BLUE, ORANGE, GREEN = "#2a6fbb", "#d9822b", "#3f9c6d"
INK, PALE = "#333333", "#d9d9d9"
Rows = Sequence[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Panel:
  """One panel and how to draw it.

  Attributes:
    title: text above the panel, with the unit.
    lines: `(key, legend, colour)` of each line. Lines without values are left
      out, and so is a panel without lines.
    band: keys of the lower and upper edge, or of the middle and its deviation.
    band_label: legend of the band.
    deviation: whether `band` is a middle and its deviation.
    share: whether the values are shares; if all are in [0, 1], the axis is too.
    points: whether measurements are few, so that each gets a dot.
    robust: whether the axis may cut outliers off, such as compilations.
  """

  title: str
  lines: tuple[tuple[str, str, str], ...]
  band: tuple[str, str] | None = None
  band_label: str = ""
  deviation: bool = False
  share: bool = False
  points: bool = False
  robust: bool = False


PANELS = (
  Panel("held-out items solved (share)",
        (("eval/solved", "evaluations during RL", ORANGE),
         ("test/solved", "test items, before and after", GREEN)),
        band=("eval/solved_low", "eval/solved_high"),
        band_label="95% interval", share=True, points=True),
  Panel("training rollouts",
        (("reward/mean", "mean reward", BLUE),
         ("rollout/solved", "share solved", ORANGE)), share=True),
  Panel("groups with equal rewards, hence no gradient (share)",
        (("update/zero_groups", "share", BLUE),), share=True),
  Panel("ELBO, normalized by learn.score_norm (nats)",
        (("update/score_mean", "mean", BLUE),),
        band=("update/score_mean", "update/score_std"),
        band_label="± standard deviation", deviation=True),
  Panel("gradient norm", (("update/grad_norm", "norm", BLUE),)),
  Panel("seconds per step (outliers cut off)",
        (("time/rollout", "rollout", BLUE), ("time/reward", "reward", GREEN),
         ("time/update", "update", ORANGE)), robust=True),
  Panel("fine-tuning loss", (("sft/loss", "loss", BLUE),)),
)


def curves(rows: Rows, path: str | os.PathLike[str], *, title: str) -> None:
  """Writes a PNG with the panels for which `rows` have numbers.

  Args:
    rows: one dict per step, see `metrics.rows`; keys may be absent or null.
    path: the PNG to write.
    title: text above the page.

  Raises:
    ValueError: no row has a metric that belongs to a panel.
  """
  panels = [panel for panel in PANELS
            if any(_series(rows, key)[0] for key, _, _ in panel.lines)]
  if not panels:
    raise ValueError(
      f"plots.curves: none of the {len(rows)} rows has a metric to draw")
  columns = min(len(panels), 3)
  height = math.ceil(len(panels) / columns)
  # Not pyplot: it keeps every figure alive and picks a backend per process.
  page = figure.Figure(figsize=(4.2 * columns, 2.7 * height + 0.5), dpi=150,
                       layout="constrained")
  page.suptitle(title, x=0.01, ha="left", fontsize=12, color=INK)
  last = max(row["step"] for row in rows)
  for i, panel in enumerate(panels):
    ax = page.add_subplot(height, columns, i + 1)
    _draw(ax, panel, rows)
    ax.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    ax.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=True))
    if i + columns >= len(panels):
      ax.set_xlabel("step", fontsize=9, color=INK)
  drawn = io.BytesIO()
  page.savefig(drawn, format="png")
  own_files.replace(path, drawn.getvalue())


def _draw(ax: axes.Axes, panel: Panel, rows: Rows) -> None:
  # Equal lines, such as reward and accuracy on many tasks, share one: the later
  # would hide the earlier.
  lines: dict[tuple[Any, ...], tuple[str, list[str]]] = {}
  for key, label, colour in panel.lines:
    points = tuple(map(tuple, _series(rows, key)))
    lines.setdefault(points, (colour, []))[1].append(label)
  drawn: list[float] = []
  for (x, y), (colour, labels) in lines.items():
    if x:
      # No line through two points, before and after: between them the metric
      # is unknown.
      ax.plot(x, y, color=colour, label=" and ".join(labels),
              lw=1.6 if len(x) > 2 else 0,
              marker="o" if panel.points or len(x) <= 2 else "", ms=4)
      drawn += y
  if panel.band:
    at, low, high = _band(panel, rows)
    if at:
      ax.fill_between(at, low, high, color=panel.lines[0][2], alpha=0.2, lw=0,
                      label=panel.band_label)
  if panel.share and min(drawn) >= 0 and max(drawn) <= 1:
    ax.set_ylim(-0.02, 1.02)
  elif panel.robust:
    # A step that compiles takes a hundred times as long as the others.
    usual = sorted(drawn)[int(0.98 * (len(drawn) - 1))]
    ax.set_ylim(0, 1.15 * usual or 1)
  ax.set_title(panel.title, loc="left", fontsize=9.5, color=INK)
  if len(panel.lines) > 1 or panel.band:
    ax.legend(frameon=False, fontsize=8, labelcolor=INK)
  ax.grid(axis="y", color=PALE, lw=0.6)
  ax.set_axisbelow(True)
  ax.spines[["top", "right"]].set_visible(False)
  ax.spines[["left", "bottom"]].set_color(PALE)
  ax.tick_params(labelsize=8, labelcolor=INK, color=PALE)


def _series(rows: Rows, *keys: str) -> tuple[list[float], ...]:
  """Steps and values of each key, from the rows that have all keys."""
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
