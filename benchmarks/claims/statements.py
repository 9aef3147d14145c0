"""Statements of the papers, as comparisons of rows, and the rule for them."""

import dataclasses
import math
import statistics
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from benchmarks.claims import cost
from benchmarks.claims import runs as runs_lib
from benchmarks.claims import store
from dlrl.evaluation import intervals

NOT_YET = "not run yet"
LEAST = 3  # seeds of both rows below which nothing is said
MARGIN = 0.02  # an accuracy gained that is too small to count
ALPHA = 0.05  # of the intervals, and of all comparisons of a section together


@dataclasses.dataclass(frozen=True)
class Statement:
  """A statement, and the comparisons of a claim's rows that test it.

  Attributes:
    claim: a key of `table.CLAIMS`.
    source: whose statement it is.
    text: the statement.
    pairs: labels of the row that is said to end with the higher accuracy, and
      of the other; all of them have to hold.
    than: the claim of the other rows; "": the same.
    saves: the parts of a step whose seconds are said to be saved; (): the
      statement is about accuracy.
  """

  claim: str
  source: str
  text: str
  pairs: tuple[tuple[str, str], ...]
  than: str = ""
  saves: tuple[str, ...] = ()


def _by_sign(other: str) -> Statement:
  return Statement(
    "off_policy", "BGPO", f"off-policy, its bound by sign is better than "
    f"{other} for every advantage", tuple(
      (f"by sign (BGPO), {n} updates", f"{other} only, {n} updates")
      for n in (2, 4)))


_PRUNED_COUNTDOWN = "all, until EOS (configs/stp.py:countdown)"
STATEMENTS = (
  Statement("draws", "BGPO", "16 draws are better than one",
            (("16 draws", "1 draw"),)),
  Statement("draws", "BGPO", "more draws help at every step up to 16", (
    ("2 draws", "1 draw"), ("4 draws", "2 draws"), ("8 draws", "4 draws"),
    ("16 draws", "8 draws"))),
  Statement("countdown", "BGPO", "16 draws are better than one, on Countdown",
            (("16 draws", "1 draw"),)),
  Statement("methods", "BGPO", "with 16 draws it is better than VRPO-OL with "
            "the 4 that fitted", (("BGPO, 16 draws", "VRPO-OL, 4 draws"),)),
  Statement("methods", "BGPO", "it is better than diffu-GRPO",
            (("BGPO, 16 draws", "diffu-GRPO"),)),
  Statement("damped", "BGPO", "with 16 draws it is better than VRPO-OL with "
            "the 4 that fitted, without failures",
            (("BGPO, 16 draws", "VRPO-OL, 4 draws"),)),
  Statement("damped", "BGPO", "it is better than diffu-GRPO, without failures",
            (("BGPO, 16 draws", "diffu-GRPO"),)),
  _by_sign("Taylor"),
  _by_sign("Jensen"),
  Statement("cures", "SPG", "an upper bound for failures is better than the "
            "ELBO for all", (("EUBO for failures (SPG, half of it)", "none"),)),
  Statement("cures", "dlrl", "leaving failures out is better than a lower rate",
            (("failures at weight 0 (default)", "a lower rate"),)),
  Statement("stp", "STP", "pruning ends with a higher accuracy",
            (("all (configs/stp.py)", "nothing"),)),
  Statement("stp_countdown", "STP", "pruning ends with a higher accuracy, on "
            "Countdown", ((_PRUNED_COUNTDOWN, "nothing, canvas"),)),
  Statement("stp", "STP", "pruning makes rollouts faster",
            (("all (configs/stp.py)", "nothing"),), saves=("rollout",)),
  Statement("stp", "STP", "pruning makes a step of training faster",
            (("all (configs/stp.py)", "nothing"),), saves=cost.PARTS),
  Statement("stp_countdown", "STP", "pruning makes a step of training faster, "
            "on Countdown", ((_PRUNED_COUNTDOWN, "nothing, canvas"),),
            saves=cost.PARTS),
  Statement("blocks", "dlrl", "a block's exact ELBO is better than one draw",
            (("all 15 masks, exact", "1 draw"),)),
  Statement("blocks", "dlrl", "a block's exact ELBO is better than 16 draws",
            (("all 15 masks, exact", "16 draws"),)),
  Statement("objectives_balanced", "dlrl", "`balanced` is better than an "
            "objective's own draws", tuple(
              (name, name) for name in ("EBPO", "ESPO", "GDSD", "StableDRL")),
            than="objectives"),
)


# Not of rows: `variance_run.measure_pruned` compares.
VARIANCE = Statement(
  "stp", "STP", "pruning lowers the variance of the gradient", ())
_MOST_PRUNED = "template and truncated draws", 8  # draws


@dataclasses.dataclass(frozen=True)
class Difference:
  """The gain of one row over another: accuracy of the same seeds, or time.

  Attributes:
    mean: over seeds, or turns; NaN without any.
    low: of Student's 95% interval of the mean; -inf for fewer than two.
    high: of the same.
    seeds: how many both rows have, or turns in which both were timed.
    p_value: of Student's test of no difference; 1 for fewer than two seeds.
  """

  mean: float
  low: float
  high: float
  seeds: int
  p_value: float = 1.0

  @property
  def outcome(self) -> str:
    """`not run yet`, `yes`, `no`, or `open` if the seeds do not tell."""
    if self.seeds < LEAST:
      return NOT_YET
    if self.low > 0:
      return "yes"
    # Whatever gain is left within the interval does not count as one.
    return "no" if self.high < MARGIN else "open"


def results(row: runs_lib.Row, stored: store.Stored) -> dict[int, store.Result]:
  """Returns the stored results of a row, by seed."""
  return {run.seed: stored[run.name] for run in row.runs
          if run.name in stored}


def difference(better: runs_lib.Row, worse: runs_lib.Row, stored: store.Stored
               ) -> Difference:
  """Compares final accuracies, paired by the seed and so by the warm start."""
  a, b = results(better, stored), results(worse, stored)
  return of_gains(
    [a[seed]["after"] - b[seed]["after"] for seed in a if seed in b])


def of_gains(gains: Sequence[float]) -> Difference:
  """The mean of paired differences, its interval and the test of zero."""
  mean = math.fsum(gains) / len(gains) if gains else math.nan
  return Difference(
    mean, *intervals.t_interval(gains), len(gains), _p_value(gains))


def _p_value(gains: Sequence[float]) -> float:
  if len(gains) < 2:
    return 1.0
  from scipy import special  # takes as long to import as half of JAX
  error = statistics.stdev(gains) / math.sqrt(len(gains))
  mean = abs(statistics.fmean(gains))
  if not error:
    return float(not mean)
  return float(2 * special.stdtr(len(gains) - 1, -mean / error))


def seconds_saved(faster: str, slower: str, costs: cost.Costs | None,
                  parts: Sequence[str]) -> Difference:
  """The share of time that one row saves of another's, paired by turns."""
  if not costs or not {faster, slower} <= costs.keys():
    return of_gains([])
  return of_gains(cost.saved(costs[faster], costs[slower], parts))


def variance_saved(found: Sequence[Mapping[str, Any]] | None
                   ) -> list[Difference]:
  """The share of the gradient's variance that pruning saves, at each step.

  Args:
    found: what `variance_run.measure_pruned` found; None: nothing yet.
  """
  if found is None:
    return [of_gains([])]
  chosen = [one["whole"] for one in found
            if (one["pruning"], one["n"]) == _MOST_PRUNED]
  # Over prompts, many more than `LEAST`.
  return [Difference(1 - mean, 1 - high, 1 - low, LEAST)
          for mean, low, high in chosen]


def larger_than_noise(found: Mapping[str, Difference], *, corrected: bool
                      ) -> list[str]:
  """The names of differences from zero that seeds do not explain, in order.

  Args:
    found: differences of at least `LEAST` seeds.
    corrected: by Holm, so that a single name that is wrong has at most the
      chance `ALPHA` (S. Holm, "A simple sequentially rejective multiple test
      procedure", 1979); otherwise each has.
  """
  ordered = sorted(found, key=lambda name: found[name].p_value)
  told: list[str] = []
  for name in ordered:
    others = len(found) - len(told) if corrected else 1
    if found[name].p_value > ALPHA / others:
      break
    told.append(name)
  return [name for name in found if name in told]


def verdict(found: Sequence[Difference]) -> str:
  """Whether a statement holds, by its comparisons.

  It holds if every difference is positive, its interval being above zero; in
  part if some are. It does not hold if no gain as large as `MARGIN` is within
  any interval. Otherwise so few seeds cannot tell.
  """
  outcomes = [one.outcome for one in found]
  if NOT_YET in outcomes:
    return NOT_YET
  if all(one == "yes" for one in outcomes):
    return "holds"
  if "yes" in outcomes:
    return "holds in part"
  if all(one == "no" for one in outcomes):
    return "does not hold"
  return "could not be tested: seeds differ too much"


def recommended(rows: Sequence[runs_lib.Row], reference: runs_lib.Row,
                stored: store.Stored) -> runs_lib.Row | None:
  """The row to take in place of the reference; the reference if none is better.

  It is the one with the highest mean of those that never collapsed and are
  better by the interval of their difference. None until all rows have `LEAST`
  seeds.
  """
  found = {row: difference(row, reference, stored) for row in rows
           if row is not reference}
  if any(one.outcome == NOT_YET for one in found.values()):
    return None
  better = [row for row, one in found.items() if one.outcome == "yes"
            and not any(map(store.collapsed, results(row, stored).values()))]
  return max(better, key=lambda row: found[row].mean, default=reference)
