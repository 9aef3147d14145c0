"""The page's section on the parts of the gradient's variance, and its figure.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import figure

from benchmarks import results
from benchmarks.claims import variance

# Forward passes: a completion of 16 tokens takes 8 denoising steps, and the
# gradient of a draw costs 3.8 (docs/methods.md).
ROLLOUT, DRAW = 8.0, 3.8
LITTLE = 0.25  # a share of the variance at which draws matter no more
TITLE = "Where the gradient's variance comes from"
Entries = Sequence[Mapping[str, Any]]

ABOUT = f"""## {TITLE}

The variance of a step's gradient, split into what differs between prompts,
between completions of a prompt, and between draws of the same completions, by
nested analysis of variance: 64 prompts, two sets of four completions of each,
two sets of draws of each set. The run is seed 0 of `configs/bgpo.py` with 16
draws. Shares are of the variance, with 95% jackknife intervals over prompts;
the estimates are unbiased, so that a small share can be negative.
"""
RULE = f"""
"Draws matter no more" is the least number of draws at which they are below
{LITTLE:.0%} of the variance. "Best split" is the number of draws at which a
fixed budget of forward passes, spent on completions of new prompts and their
draws, gives the least variance: a completion costs {ROLLOUT:g} passes, a draw
{DRAW:g}; in parentheses if completions cost nothing.
"""


PRUNED = """The variance of the gradient, relative to that without pruning, for
the same completions and parameters, of 64 prompts; with 95% jackknife
intervals. Clues are fixed in full. "Step" is of the run without pruning, which
the parameters are from; the mean gradient changes, too, because fixed tokens
are not trained.

`python -m benchmarks.claims variance`
"""


def pruned(found: Entries | None) -> list[str]:
  """Lines of Markdown on what `variance_run.measure_pruned` found."""
  if found is None:
    return [*PRUNED.splitlines(), "", "Not run yet.", ""]
  lines = [*PRUNED.splitlines(), "",
           "| step | pruned | draws | variance from draws | of a step's "
           "gradient | squared mean gradient |", "| --- " * 6 + "|"]
  for one in found:
    shown = [f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in (
      one["draws"], one["whole"])]
    signal = "" if one["signal"] is None else f"{one['signal']:.2f}"
    lines.append(f"| {one['step']} | {one['pruning']} | {one['n']} | "
                 f"{' | '.join([*shown, signal])} |")
  return [*lines, ""]


def section(found: Entries | None) -> list[str]:
  """Lines of Markdown."""
  lines = [*ABOUT.splitlines(), "",
           "`python -m benchmarks.claims variance`", ""]
  if found is None:
    return [*lines, "Not run yet.", ""]
  lines += ["| step | estimator | draws | prompts, % | completions, % | "
            "draws, % |", "| --- " * 6 + "|", *map(_row, found)]
  lines += [*RULE.splitlines(), "",
            "| step | estimator | draws matter no more | best split |",
            "| --- " * 4 + "|"]
  for (step, process), by_n in _groups(found).items():
    enough = [n for n, parts in by_n.items()
              if variance.shares(parts)["draws"] < LITTLE]
    best, alone = (variance.best(by_n, rollout=cost, draw=DRAW)
                   for cost in (ROLLOUT, 0.0))
    least = min(enough) if enough else f"more than {max(by_n)}"
    lines.append(f"| {step} | `{process}` | {least} | {best} ({alone}) |")
  return [*lines, "",
          f"![{TITLE}](../benchmarks/results/claims_variance.png)", ""]


def _row(one: Mapping[str, Any]) -> str:
  shares = variance.shares(one["variances"])
  cells = []
  for part in variance.PARTS:
    share, low, high = (
      f"{100 * x:.0f}" for x in (shares[part], *one["intervals"][part]))
    cells.append(f"{share} [{low}, {high}]")
  return (f"| {one['step']} | `{one['process']}` | {one['n']} | "
          f"{' | '.join(cells)} |")


def _groups(found: Entries
            ) -> dict[tuple[int, str], dict[int, Mapping[str, float]]]:
  groups: dict[tuple[int, str], dict[int, Mapping[str, float]]] = {}
  for one in found:
    groups.setdefault((one["step"], one["process"]), {})[one["n"]] = (
      one["variances"])
  return groups


def draw(found: Entries) -> figure.Figure:
  """The share of draws by their number: a panel per step of the run."""
  steps = list(dict.fromkeys(one["step"] for one in found))
  fig, panels = results.page(
    "Share of draws in the variance of the gradient", columns=len(steps),
    size=(9, 4))
  processes = list(dict.fromkeys(one["process"] for one in found))
  for ax, step in zip(panels, steps, strict=True):
    for place, process in enumerate(processes):
      here = [one for one in found
              if (one["step"], one["process"]) == (step, process)]
      ns = np.array([one["n"] for one in here])
      share = np.array([
        variance.shares(one["variances"])["draws"] for one in here])
      ends = np.array([one["intervals"]["draws"] for one in here]).T
      x = ns * 1.06 ** (place - 1)  # beside one another
      ax.errorbar(x, 100 * share, 100 * np.abs(ends - share), marker="o", ms=4,
                  color=results.COLOURS[place], lw=1.3, label=process)
    results.ticks(ax, x=ns.tolist())
    ax.set(title=f"step {step}", xlabel="draws", ylim=(-5, 115))
  panels[0].set_ylabel("share of draws (%)")
  fig.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=9,
             loc="outside lower left", ncols=3)
  return fig
