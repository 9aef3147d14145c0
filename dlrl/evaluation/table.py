"""From scored completions to one table: accuracy with its interval.

A record is one completion, a line of `completions.jsonl`:

    length    tokens of the canvas
    sample    number of the completion among those of its item
    item      place in the evaluated set
    task      name
    answer    what was read as its answer, a text; null: nothing was
    scores    metric to a number in [0, 1]; null: its grader broke down
    out_of    metric to the things of the item that it is the share of; those
              of all items are counted together. Without it, items are.

Items are independent, samples of one item are not: an interval is over items.
"""

import collections
import statistics
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from dlrl.evaluation import intervals

Record = Mapping[str, Any]


class Score(NamedTuple):
  """One number of the table and the 95% interval around it.

  Attributes:
    n: items it is the mean of.
    lost: completions whose grader broke down; they count nowhere.
  """

  task: str
  length: int
  metric: str
  n: int
  mean: float
  low: float
  high: float
  lost: int


def summarize(records: Iterable[Record]) -> list[Score]:
  """All scores, by task, length and metric, in order of appearance.

  With one completion per item, the metric itself. With k, `METRIC` is its mean
  over completions (pass@1, or mean@k), and for metrics that are 0 or 1 there
  are `METRIC_pass@k`, whether any of an item's is right, and `METRIC_maj@k`,
  whether those are right whose answer is the most frequent one; of equally
  frequent ones the first is taken, and no answer is none.
  """
  cells: dict[tuple[str, int, str], dict[int, list[Record]]] = {}
  for record in sorted(records, key=lambda r: (r["item"], r["sample"])):
    for metric in record["scores"]:
      key = record["task"], record["length"], metric
      items = cells.setdefault(key, {})
      items.setdefault(record["item"], []).append(record)
  return [score for key, items in cells.items()
          for score in _of_cell(*key, items)]


def _of_cell(
  task: str, length: int, metric: str, items: Mapping[int, list[Record]]
) -> list[Score]:
  known = [[r for r in records if r["scores"][metric] is not None]
           for records in items.values()]
  lost = sum(map(len, items.values())) - sum(map(len, known))
  known = [records for records in known if records]
  values = [[r["scores"][metric] for r in records] for records in known]
  means = [statistics.fmean(v) for v in values]
  sizes = [records[0].get("out_of", {}).get(metric, 1) for records in known]
  scores = [_score(task, length, metric, means, lost, sizes)]
  k = max(map(len, values), default=0)
  if k > 1 and all(x in (0, 1) for v in values for x in v):
    scores.append(_score(task, length, f"{metric}_pass@{k}",
                         [float(max(v)) for v in values], lost))
    scores.append(_score(task, length, f"{metric}_maj@{k}",
                         [majority(records, metric) for records in known],
                         lost))
  return scores


def majority(records: Sequence[Record], metric: str) -> float:
  """The score of the completions that give the most frequent answer."""
  answers = [r["answer"] for r in records if r["answer"] is not None]
  if not answers:
    return 0.0
  # Of equal counts, `most_common` gives the one seen first.
  (answer, _), *_ = collections.Counter(answers).most_common(1)
  return float(next(
    r["scores"][metric] for r in records if r["answer"] == answer))


def interval(values: Sequence[float]) -> tuple[float, float]:
  """95%, of the mean of independent values in [0, 1]."""
  if set(values) <= {0.0, 1.0}:
    return intervals.wilson(round(sum(values)), len(values))
  return intervals.mean_interval(values)


def _score(task, length, metric, values, lost, sizes=()) -> Score:
  if len(set(sizes)) > 1:  # or it is the mean, with Wilson's where that fits
    mean = intervals.pooled_share(values, sizes)
    low, high = intervals.pooled_interval(values, sizes)
  else:
    mean = statistics.fmean(values) if values else 0.0
    low, high = interval(values)
  return Score(task, length, metric, len(values), mean, low, high, lost)


def markdown(scores: Sequence[Score], settings: Mapping[str, str]) -> str:
  """The table, below the settings that it is only true of."""
  lines = [f"* {name}: {value}" for name, value in settings.items()]
  lines += ["", "| task | length | metric | % | 95% interval | items | lost |",
            "| --- | --- | --- | --- | --- | --- | --- |"]
  lines += [
    f"| {s.task} | {s.length} | {s.metric} | {100 * s.mean:.1f} "
    f"| {100 * s.low:.1f} to {100 * s.high:.1f} | {s.n} | {s.lost} |"
    for s in scores]
  return "\n".join(lines) + "\n"
