"""Made-up rows and results of `benchmarks.claims`."""

from benchmarks.claims import cost
from benchmarks.claims import runs
from benchmarks.claims import table

# All rows; every method has a learning rate.
ROWS = table.rows_at(dict.fromkeys({**table.GRID, **table.OTHERS}, 1e-4))


def row(label, seeds=(0, 1, 2), **overrides):
  """A row of a claim, as in the table."""
  return runs.Row("draws", label, table.BGPO, overrides, seeds)


def result(seed, *solved, before=0.4):
  """Of a run that was evaluated at even distances."""
  last = runs.COMMON["steps"]
  return {"seed": seed, "before": before, "after": solved[-1], "curve": [
    [last * i / (len(solved) - 1), x] for i, x in enumerate(solved)]}


def results_of(claim, after):
  """Made-up results: the i-th row of a claim gains by i points on `after`."""
  rows = [one for one in ROWS if one.claim == claim]
  return {run.name: result(run.seed, 0.4, 0.5, after[run.seed] + 0.1 * place)
          for place, one in enumerate(rows) for run in one.runs
          if run.seed < len(after)}


def cost_of(*parts):
  """A cost with these median seconds, and 1.5 more GFLOPs than seconds."""
  return {
    "seconds": {part: [9 * x, x, 0.5 * x]
                for part, x in zip(cost.PARTS, parts, strict=True)},
    "flops": {part: (x + 1.5) * 1e9
              for part, x in zip(cost.PARTS, parts, strict=True)}}
