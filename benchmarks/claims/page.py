"""docs/results.md, from stored results alone."""

import dataclasses
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from benchmarks import results as results_lib
from benchmarks.claims import cost
from benchmarks.claims import runs
from benchmarks.claims import statements
from benchmarks.claims import store
from benchmarks.claims import table
from benchmarks.claims import variance_page

COLUMNS = ("", "seeds", "solved, %", "difference, points", "mean over steps, %",
           "collapsed", "GFLOP per step", "s per step",
           "solved at equal time, %")

INTRO = f"""# Are the papers right?

Claims of papers on RL of diffusion LLMs, tried in one code base on tasks that
two CPU cores can train: a model of 155,000 parameters on 4x4 Sudoku and on
Countdown with three digits, and in one section a larger one on a harder task.
Whether methods rank alike at 8 billion parameters is not known.

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
steps where nothing else is said. All runs of a seed begin with one fine-tuned
model.

* "Solved" is the share of 512 held-out puzzles after the last step, a mean over
  seeds with Student's 95% interval. Differences are paired by seed.
* "Mean over steps" is the area under the curve of held-out accuracy.
* A run has collapsed if it ends with less than half of its warm start's
  accuracy. Runs that failed, as those do whose gradients stay infinite, are in
  no mean; below a table is told which.
* FLOPs and seconds per step come from short runs of all rows in turns, on one
  device each. FLOPs are those of matrix products, counted by tracing the
  programs, of the forward passes that were made and of the micro-batches with
  any advantage, without what the backward pass computes again. "At equal time"
  is where the fastest row has finished its steps.

Intervals are not corrected for the number of comparisons. Below a table is told
which differences stay after Holm's correction for those of the table.

## Claims

A statement holds if the 95% intervals of all its differences are above zero,
and in part if some are. It does not hold if no interval contains a gain of {
100 * statements.MARGIN:.0f}
points. Otherwise it could not be tested with these seeds. Below {
statements.LEAST} seeds nothing is said. Of times and variances, the differences
are the percentage that is saved; intervals are over turns and over prompts.
"""


@dataclasses.dataclass(frozen=True)
class Found:
  """All that is stored.

  Attributes:
    stored: all finished runs.
    costs: of rows, by claim; without claims that were not measured.
    failed: the runs that failed.
    variance: what `variance_run.measure` found; None: not yet.
    pruned: the same of `measure_pruned`.
  """

  stored: store.Stored
  costs: Mapping[str, cost.Costs] = dataclasses.field(default_factory=dict)
  failed: store.Failed = dataclasses.field(default_factory=dict)
  variance: Any = None
  pruned: Any = None


def of_stored(directory: pathlib.Path) -> str:
  """The page, from the files in a directory."""
  costs = {name: store.read_one(directory, f"cost_{name}")
           for name in table.CLAIMS}
  return text(Found(
    store.read(directory),
    {name: found for name, found in costs.items() if found is not None},
    store.read_failed(directory), store.read_one(directory, "variance"),
    store.read_one(directory, "variance_pruned")))


def text(found: Found) -> str:
  """The page."""
  rows = table.rows(found.stored)
  return "\n".join([
    INTRO, *_verdicts(rows, found), "", *(
      line for name in table.CLAIMS for line in section(name, rows, found)),
    *variance_page.section(found.variance), *_elsewhere()]) + "\n"


def _verdicts(rows: Sequence[runs.Row], found: Found) -> list[str]:
  lines = ["| says | that | differences, points or % | verdict |",
           "| --- | --- | --- | --- |"]
  told = [(one, [_compared(one, pair, rows, found) for pair in one.pairs])
          for one in statements.STATEMENTS]
  told.append((statements.VARIANCE, statements.variance_saved(found.pruned)))
  for one, differences in told:
    verdict = statements.verdict(differences)
    shown = "" if verdict == statements.NOT_YET else "; ".join(
      map(_difference, differences))
    lines.append(f"| {one.source} | {one.text} | {shown} | {verdict} |")
  return lines


def _compared(one: statements.Statement, pair: tuple[str, str],
              rows: Sequence[runs.Row], found: Found) -> statements.Difference:
  if one.saves:
    return statements.seconds_saved(
      *pair, found.costs.get(one.claim), one.saves)
  better, worse = pair
  return statements.difference(
    table.find(rows, one.claim, better),
    table.find(rows, one.than or one.claim, worse), found.stored)


def section(name: str, every: Sequence[runs.Row], found: Found) -> list[str]:
  """The lines about a claim: its table, and its figure if it has results."""
  claim, stored = table.CLAIMS[name], found.stored
  rows = [row for row in every if row.claim == name]
  costs = found.costs.get(name)
  references = table.references(name, every)
  lines = [f"## {claim.title}", "", claim.about, "",
           f"`python -m benchmarks.claims run --only={name}`", "",
           "| " + " | ".join(COLUMNS) + " |", "| --- " * len(COLUMNS) + "|"]
  lines += [_row(row, references.get(row.label), stored, costs)
            for row in rows]
  lines += _failures(rows, found.failed)
  if started(rows, stored):
    before = {run.seed: stored[run.name]["before"] for row in rows
              for run in row.runs if run.name in stored}
    lines += ["", f"Before RL: {percent(list(before.values()))}."]
    lines += _noise(rows, references, stored)
    if name == "cures":
      lines += ["", _cure(
        rows, table.find(rows, name, claim.reference), stored)]
    if name == "harder":
      lines += ["", *_hours(rows, stored)]
    lines += ["", f"![{claim.title}](../benchmarks/results/claims_{name}.png)"]
  if name in ("stp", "stp_countdown"):
    lines += _split(costs, claim.reference)
  if name == "stp":
    lines += ["", *variance_page.pruned(found.pruned)]
  return [*lines, ""]


def _failures(rows: Sequence[runs.Row], failed: store.Failed) -> list[str]:
  lines = []
  for row in rows:
    for run in row.runs:
      # A row's runs fail with their warm start, too.
      error = failed.get(run.name) or (
        run.warm and failed.get(run.warm.name))
      if error:
        lines += ["", f"Failed: {row.label}, seed {run.seed}: "
                      f"`{error.replace('`', chr(39))}`"]
  return lines


def _noise(rows: Sequence[runs.Row], references: Mapping[str, runs.Row],
           stored: store.Stored) -> list[str]:
  """Which differences are larger than the noise of seeds."""
  found = {row.label: statements.difference(row, references[row.label], stored)
           for row in rows if row.label in references}
  found = {label: one for label, one in found.items()
           if one.seeds >= statements.LEAST}
  if not found:
    return []
  each, together = (
    statements.larger_than_noise(found, corrected=corrected)
    for corrected in (False, True))
  if not each:
    return ["", f"No difference of {len(found)} is larger than the noise of "
            "seeds, one by one or together."]
  kept = ("all of them" if together == each
          else ", ".join(together) or "none of them")
  return ["", f"Differences larger than the noise of seeds, of {len(found)}: "
          f"{', '.join(each)}. After Holm's correction: {kept}."]


def _hours(rows: Sequence[runs.Row], stored: store.Stored) -> list[str]:
  return [f"{row.label}, seed {seed}: {result['hours'][0]:.2f} hours of "
          f"fine-tuning and {sum(result['hours'][1:]):.2f} hours of RL on two "
          "cores, beside other work." for row in rows
          for seed, result in statements.results(row, stored).items()
          if "hours" in result]


def _split(costs: cost.Costs | None, reference: str) -> list[str]:
  """Seconds, FLOPs and savings of a step, rollout and update apart."""
  if costs is None or reference not in costs:
    return ["", "Not timed yet."]
  lines = ["", "Where the time goes, and where it is saved:", "",
           "| | rollout, s | update, s | rollout, GFLOP | update, GFLOP | "
           "saved of a step, % | in the rollout, s | in the update, s |",
           "| --- " * 8 + "|"]
  for label, one in costs.items():
    parts = [cost.seconds(one, [part]) for part in cost.PARTS]
    cells = [f"{x:.3f}" for x in parts] + [
      f"{one['flops'][part] / 1e9:.1f}" for part in cost.PARTS]
    if label != reference:
      whole = statements.seconds_saved(label, reference, costs, cost.PARTS)
      cells += [_difference(whole), *(
        f"{cost.seconds(costs[reference], [part]) - mine:+.3f}"
        for part, mine in zip(cost.PARTS, parts, strict=True))]
    lines.append(f"| {label} | {' | '.join(cells)} |" + " |" * (
      label == reference) * 3)
  return lines


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
         costs: cost.Costs | None) -> str:
  found = list(statements.results(row, stored).values())
  if not found:
    return " | ".join([f"| {row.label}", "0", statements.NOT_YET]) + " |" * (
      len(COLUMNS) - 2)
  gain = ""
  if reference is not None and row is not reference:
    gain = _difference(statements.difference(row, reference, stored))
  return " | ".join([
    f"| {row.label}", str(len(found)), percent([r["after"] for r in found]),
    gain, percent(list(map(store.area, found))),
    f"{sum(map(store.collapsed, found))} of {len(found)}",
    *((f"{cost.flops(costs[row.label]) / 1e9:.1f}",
       f"{cost.seconds(costs[row.label]):.2f}",
       percent(at_equal_time(row.label, found, costs)))
      if costs and row.label in costs else ("", "", ""))]) + " |"


def at_equal_time(label: str, found: Sequence[store.Result], costs: cost.Costs
                  ) -> list[float]:
  """Each seed's accuracy when the fastest row has finished its steps."""
  share = min(map(cost.seconds, costs.values())) / cost.seconds(costs[label])
  return [store.at_step(r, share * r["curve"][-1][0]) for r in found]


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
