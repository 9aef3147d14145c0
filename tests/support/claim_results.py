"""Made-up rows and results of `benchmarks.claims`."""

from benchmarks.claims import runs
from benchmarks.claims import table


def row(label, seeds=(0, 1, 2), **overrides):
  """A row of a claim, as in the table."""
  return runs.Row("draws", label, table.BGPO, overrides, seeds)


def result(seed, *solved, before=0.4):
  """Of a run that was evaluated at even distances."""
  last = runs.COMMON["steps"]
  return {"seed": seed, "before": before, "after": solved[-1], "curve": [
    [last * i / (len(solved) - 1), x] for i, x in enumerate(solved)]}
