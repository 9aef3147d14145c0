"""The README's table of its example, from stored results alone."""

from collections.abc import Sequence

from benchmarks import results as results_lib
from benchmarks.claims import runs
from benchmarks.claims import statements
from benchmarks.claims import store
from dlrl.evaluation import intervals

CLAIM = "example"
ENDS = "<!-- example: begin -->\n", "<!-- example: end -->"


def written(readme: str, rows: Sequence[runs.Row], stored: store.Stored) -> str:
  """The README with the table as it is by now.

  Args:
    readme: with `ENDS`, and anything between them.
    rows: of all claims.
    stored: all finished runs.

  Raises:
    ValueError: the README does not have both of `ENDS` once.
  """
  before, rest = readme.split(ENDS[0])
  _, after = rest.split(ENDS[1])
  found = [result for row in rows if row.claim == CLAIM
           for result in statements.results(row, stored).values()]
  lines = ["| seed | after fine-tuning | after RL |", "| --- | --- | --- |"]
  lines += [f"| {one['seed']} | {_share(one['before'], one['items'])} | "
            f"{_share(one['after'], one['items'])} |" for one in found]
  if len(found) > 1:
    lines.append("| mean of seeds | " + " | ".join(
      _interval(**results_lib.mean_interval([one[end] for one in found]))
      for end in ("before", "after")) + " |")
  return before + ENDS[0] + "\n".join(lines) + "\n" + ENDS[1] + after


def _share(share: float, items: int) -> str:
  low, high = intervals.wilson(round(share * items), items)
  return _interval(share, low, high)


def _interval(mean: float, low: float, high: float) -> str:
  return f"{mean:.1%} [{100 * low:.1f}, {100 * high:.1f}]"
