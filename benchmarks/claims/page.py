"""docs/results.md, from stored results alone."""

import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from benchmarks import results as results_lib
from benchmarks.claims import runs
from benchmarks.claims import statements
from benchmarks.claims import store
from benchmarks.claims import table
from benchmarks.claims import variance_page

NOT_YET = "not run yet"
Seconds = Mapping[str, Mapping[str, float]]  # label -> part of a step -> s
COLUMNS = ("", "seeds", "solved, %", "difference, points", "mean over steps, %",
           "collapsed", "s per step", "solved at equal time, %")

INTRO = f"""# Are the papers right?

Claims of papers on RL of diffusion LLMs, tried in one code base on tasks that
two CPU cores can train: a model of 155,000 parameters on 4x4 Sudoku and on
Countdown with three digits. Whether methods rank alike at 8 billion parameters
is not known.

This page is made from files in `benchmarks/results/claims`, one per run:

```sh
python -m benchmarks.claims run
python -m benchmarks.claims time
python -m benchmarks.claims variance
python -m benchmarks.claims page
```

The first command trains what is not stored yet, two runs at a time, and goes on
where it was stopped; `--only=draws` takes the rows of one section. Runs have {
runs.COMMON["steps"]} RL
steps. All runs of a seed begin with one fine-tuned model.

* "Solved" is the share of 512 held-out puzzles after the last step, a mean over
  seeds with Student's 95% interval. Differences are paired by seed.
* "Mean over steps" is the area under the curve of held-out accuracy.
* A run has collapsed if it ends with less than half of its warm start's
  accuracy.
* Seconds per step come from short runs of all rows in turns, on one device
  each. "At equal time" is where the fastest row has finished its steps.

Intervals are not corrected for the number of comparisons.

## Claims

A statement holds if the 95% intervals of all its differences are above zero,
and in part if some are. It does not hold if no interval contains a gain of {
100 * statements.MARGIN:.0f}
points. Otherwise it could not be tested with these seeds. Below {
statements.LEAST} seeds nothing is said.
"""


def of_stored(directory: pathlib.Path) -> str:
  """The page, from the files in a directory."""
  seconds = {name: store.read_one(directory, f"seconds_{name}")
             for name in table.CLAIMS}
  return text(
    store.read(directory),
    {name: found for name, found in seconds.items() if found is not None},
    store.read_one(directory, "variance"))


def text(stored: store.Stored, seconds: Mapping[str, Seconds],
         variance: Any) -> str:
  """The page.

  Args:
    stored: all finished runs.
    seconds: per step, by claim; without those that were not measured.
    variance: what `variance.measure` found; None: not yet.
  """
  rows = table.rows(stored)
  return "\n".join([
    INTRO, *_verdicts(rows, stored), "", *(
      line for name in table.CLAIMS
      for line in section(name, rows, stored, seconds.get(name))),
    *variance_page.section(variance), *_elsewhere()]) + "\n"


def _verdicts(rows: Sequence[runs.Row], stored: store.Stored) -> list[str]:
  lines = ["| says | that | differences, points | verdict |",
           "| --- | --- | --- | --- |"]
  for one in statements.STATEMENTS:
    found = [statements.difference(
      table.find(rows, one.claim, better), table.find(rows, one.claim, worse),
      stored) for better, worse in one.pairs]
    told = statements.verdict(found)
    shown = "" if told == NOT_YET else "; ".join(map(_difference, found))
    lines.append(f"| {one.source} | {one.text} | {shown} | {told} |")
  return lines


def section(name: str, every: Sequence[runs.Row], stored: store.Stored,
            seconds: Seconds | None) -> list[str]:
  """The lines about a claim: its table, and its figure if it has results."""
  claim = table.CLAIMS[name]
  rows = [row for row in every if row.claim == name]
  reference = next((r for r in rows if r.label == claim.reference), None)
  lines = [f"## {claim.title}", "", claim.about, "",
           f"`python -m benchmarks.claims run --only={name}`", "",
           "| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
  lines += [_row(row, reference, stored, seconds) for row in rows]
  if started(rows, stored):
    before = {run.seed: stored[run.name]["before"] for row in rows
              for run in row.runs if run.name in stored}
    lines += ["", f"Before RL: {percent(list(before.values()))}."]
    if name == "cures" and reference is not None:
      lines += ["", _cure(rows, reference, stored)]
    lines += ["", f"![{claim.title}](../benchmarks/results/claims_{name}.png)"]
  return [*lines, ""]


def _cure(rows: Sequence[runs.Row], reference: runs.Row, stored: store.Stored
          ) -> str:
  found = statements.recommended(rows, reference, stored)
  if found is None:
    return "Nothing is recommended until all rows have been run."
  if found is reference:
    return ("Recommended: the default. No other row is better by the interval "
            "of its difference without ever collapsing.")
  return (f"Recommended: {found.label}. It never collapsed, and of the rows "
          "that are better than the default by the interval of their "
          "difference it is the highest.")


def started(rows: Sequence[runs.Row], stored: store.Stored) -> bool:
  """Whether rows have any result."""
  return any(statements.results(row, stored) for row in rows)


def _row(row: runs.Row, reference: runs.Row | None, stored: store.Stored,
         seconds: Seconds | None) -> str:
  found = list(statements.results(row, stored).values())
  if not found:
    return " | ".join([f"| {row.label}", "0", NOT_YET]) + " |" * (
      len(COLUMNS) - 2)
  gain = ""
  if reference is not None and row is not reference:
    gain = _difference(statements.difference(row, reference, stored))
  timed = seconds is not None and row.label in seconds
  return " | ".join([
    f"| {row.label}", str(len(found)), percent([r["after"] for r in found]),
    gain, percent(list(map(store.area, found))),
    f"{sum(map(store.collapsed, found))} of {len(found)}",
    f"{sum(seconds[row.label].values()):.2f}" if timed and seconds else "",
    percent(at_equal_time(row.label, found, seconds))
    if timed and seconds else ""]) + " |"


def at_equal_time(label: str, found: Sequence[store.Result], seconds: Seconds
                  ) -> list[float]:
  """Each seed's accuracy when the fastest row has finished its steps."""
  step = {name: sum(parts.values()) for name, parts in seconds.items()}
  share = min(step.values()) / step[label]
  return [store.at_step(r, share * runs.COMMON["steps"]) for r in found]


def percent(values: Sequence[float]) -> str:
  """A mean of shares with its interval over seeds."""
  return _interval(results_lib.mean_interval(values), "")


def _difference(found: statements.Difference) -> str:
  if not found.seeds:
    return ""
  values = {"mean": found.mean}
  if found.seeds > 1:
    values |= {"low": found.low, "high": found.high}
  return _interval(values, "+")


def _interval(found: Mapping[str, float], sign: str) -> str:
  mean, *ends = (f"{100 * found[k]:{sign}.1f}" for k in ("mean", "low", "high")
                 if k in found)
  return f"{mean} [{', '.join(ends)}]" if ends else mean


def _elsewhere() -> list[str]:
  return [
    "## Measured elsewhere", "",
    "* Error and bias of the gradient by number of draws, the shape of BGPO's "
    "figure 3: [methods](methods.md#fewer-draws-for-the-same-gradient), with "
    "more repeats than the paper's 8 and a reference of more draws than its "
    "256.",
    "* Memory by number of draws, BGPO's figure 1: [memory](memory.md).",
    "* STP at 520 steps, with its times: [pruned rollouts](stp.md#measured).",
    "* Blocks, whose ELBO is exact: [block diffusion](block_diffusion.md)."]
