"""Figures of the page: accuracy at the end, and over the steps."""

import numpy as np
from matplotlib import axes
from matplotlib import figure

from benchmarks import results
from benchmarks.claims import runs
from benchmarks.claims import statements
from benchmarks.claims import store
from benchmarks.claims import table

CURVES = 8  # more lines over one another could not be told apart


def of_claim(name: str, stored: store.Stored) -> figure.Figure:
  """Every row's final accuracy with its interval, and all mean curves.

  Of more than `CURVES` rows, means over the steps in place of the curves; of a
  single row, each seed's curve, too.
  """
  claim = table.CLAIMS[name]
  rows = [row for row in table.rows(stored)
          if row.claim == name and statements.results(row, stored)]
  fig, (left, right) = results.page(
    claim.title, columns=2, size=(10, 2.2 + 0.42 * max(len(rows), 5)))
  for place, row in enumerate(rows):
    found = list(statements.results(row, stored).values())
    grey = row.label == claim.reference
    colour = (results.BASELINE if grey
              else results.COLOURS[place % len(results.COLOURS)])
    y = len(rows) - place
    _points(left, y, [r["after"] for r in found], colour)
    if len(rows) > CURVES:
      _points(right, y, list(map(store.area, found)), colour)
    else:
      _curve(right, row, found, colour, dashed=place >= len(results.COLOURS))
    if len(rows) == 1:  # nothing is compared
      for result, shade in zip(found, results.COLOURS[1:], strict=False):
        steps, solved = np.array(result["curve"]).T
        right.plot(steps, 100 * solved, color=shade, lw=0.9,
                   label=f"seed {result['seed']}")
  ends, ylim = range(len(rows), 0, -1), (0.3, len(rows) + 0.7)
  left.set_yticks(ends, [row.label for row in rows])
  left.set(xlabel="held-out items solved at the end (%)", ylim=ylim)
  if len(rows) > CURVES:
    right.set_yticks(ends, [])
    right.set(xlabel="mean over the steps (%)", ylim=ylim)
    return fig
  right.set(xlabel="RL step", ylabel="held-out items solved (%), mean")
  fig.legend(*right.get_legend_handles_labels(), loc="outside lower left",
             ncols=3, frameon=False, fontsize=9)
  return fig


def _points(ax: axes.Axes, y: float, shares: list[float], colour: str) -> None:
  interval = results.mean_interval(shares)
  ax.plot(100 * np.array(shares), [y] * len(shares), "o", ms=3.5, color=colour,
          alpha=0.5)
  if "low" in interval:
    ax.plot([100 * interval["low"], 100 * interval["high"]], [y, y],
            color=colour, lw=1.5)
  ax.plot([100 * interval["mean"]], [y], "|", ms=14, mew=2.5, color=colour)


def _curve(ax: axes.Axes, row: runs.Row, found: list[store.Result],
           colour: str, *, dashed: bool) -> None:
  curves = np.array([r["curve"] for r in found])  # [seeds, points, 2]
  ax.plot(curves[0, :, 0], 100 * curves[:, :, 1].mean(0), color=colour,
          marker="o", ms=3, ls="--" if dashed else "-", label=row.label)
