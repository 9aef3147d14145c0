"""Accuracy with confidence intervals from scored completions, as a table.

A record is one completion, a line of `completions.jsonl`:

    length    number of tokens of the canvas
    sample    number of the completion among those of its item, from 0
    item      index in the evaluated set
    task      name of the task
    answer    the answer extracted from the text; null if none was found
    scores    maps a metric to a number, in [0, 1] unless the task says
              otherwise; null if its grader failed
    out_of    denominators: maps a metric that counts parts of an item, such as
              cells of a puzzle, to the number of parts of this item; parts are
              pooled over all items

Items are independent, samples of one item are not. Intervals are therefore over
items, each of which contributes the mean over its samples.
"""

import collections
import math
import statistics
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from dlrl.evaluation import intervals

Record = Mapping[str, Any]


class Accuracy(NamedTuple):
  """One row of the table: the mean of a metric with its 95% interval.

  Attributes:
    task: name of the task.
    length: number of tokens of the canvas.
    metric: name of the metric.
    n: number of items with a known value.
    mean: of the known values; None if there are none.
    low: lower end of the interval; None if it has none.
    high: upper end of the interval; None if it has none.
    lost: number of completions whose grader failed; they are left out.
    share: whether the values are in [0, 1] by their definition.
  """

  task: str
  length: int
  metric: str
  n: int
  mean: float | None
  low: float | None
  high: float | None
  lost: int
  share: bool = True


def summarize(records: Iterable[Record], unbounded: Collection[str] = ()
              ) -> list[Accuracy]:
  """One row per task, length and metric, in order of appearance.

  Metrics in `unbounded` may be any number, see `Task.unbounded`.

  With k > 1 completions per item, `METRIC` is the mean over completions, the
  usual estimate of pass@1, and every metric gets two more rows:
  `METRIC_pass@k` is the best score among the completions of an item, so 1 if
  any is right; `METRIC_maj@k` is the score of the most frequent answer, see
  `majority`. Which rows there are does not depend on the scores. Of several
  records of one completion the first counts.
  """
  cells: dict[tuple[str, int, str], dict[int, dict[int, Record]]] = {}
  for record in sorted(records, key=lambda r: (r["item"], r["sample"])):
    for metric in record["scores"]:
      key = record["task"], record["length"], metric
      items = cells.setdefault(key, {})
      items.setdefault(record["item"], {}).setdefault(record["sample"], record)
  return [
    accuracy for (task, length, metric), items in cells.items()
    for accuracy in _rows(
      task, length, metric,
      [list(samples.values()) for samples in items.values()],
      share=not {metric, f"{task}/{metric}"} & set(unbounded))]


def _rows(
  task: str, length: int, metric: str, items: Sequence[list[Record]],
  share: bool
) -> list[Accuracy]:
  known = [[r for r in records if r["scores"][metric] is not None]
           for records in items]
  lost = sum(map(len, items)) - sum(map(len, known))
  known = [records for records in known if records]
  values = [[r["scores"][metric] for r in records] for records in known]
  means = [statistics.fmean(v) for v in values]
  sizes = [records[0].get("out_of", {}).get(metric, 1) for records in known]
  rows = [_accuracy(task, length, metric, means, lost, sizes, share)]
  k = max(map(len, items))
  if k > 1:
    rows.append(_accuracy(task, length, f"{metric}_pass@{k}",
                          [float(max(v)) for v in values], lost, sizes, share))
    rows.append(_accuracy(task, length, f"{metric}_maj@{k}",
                          [majority(records, metric) for records in known],
                          lost, sizes, share))
  return rows


def majority(records: Sequence[Record], metric: str) -> float:
  """The score of the most frequent answer of an item; 0 without any answer.

  Completions without an answer do not vote. Ties go to the answer that comes
  first.
  """
  answers = [r["answer"] for r in records if r["answer"] is not None]
  if not answers:
    return 0.0
  # `most_common` orders equal counts by their first occurrence.
  (answer, _), *_ = collections.Counter(answers).most_common(1)
  return float(next(
    r["scores"][metric] for r in records if r["answer"] == answer))


def interval(values: Sequence[float], *, share: bool
             ) -> tuple[float | None, float | None]:
  """The 95% interval of the mean of independent values; None for infinite ends.

  Args:
    values: at least one of them, unless `share`.
    share: whether they are in [0, 1] by their definition.
  """
  if set(values) <= {0.0, 1.0} and (share or values):
    return intervals.wilson(round(sum(values)), len(values))
  if share:
    return intervals.mean_interval(values)
  low, high = intervals.t_interval(values)
  return (low, high) if math.isfinite(high - low) else (None, None)


def _accuracy(
  task: str, length: int, metric: str, values: Sequence[float], lost: int,
  sizes: Sequence[int] = (), share: bool = True,
) -> Accuracy:
  low: float | None
  high: float | None
  if len(set(sizes)) > 1:  # with equal sizes, pooling is the plain mean
    mean = intervals.pooled_share(values, sizes)
    low, high = intervals.pooled_interval(values, sizes)
  else:
    mean = statistics.fmean(values) if values else math.nan
    low, high = interval(values, share=share)
  return Accuracy(
    task, length, metric, len(values), mean if values else None, low, high,
    lost, share)


def markdown(rows: Sequence[Accuracy], settings: Mapping[str, str]) -> str:
  """The table in Markdown, below a list of the settings it depends on.

  Shares are in percent, other metrics are plain numbers.
  """
  percent = all(r.share for r in rows)

  def shown(value: float, share: bool) -> str:
    if not share:
      return f"{value:.4g}"
    return f"{100 * value:.1f}" if percent else f"{100 * value:.1f}%"

  def cells(r: Accuracy) -> str:
    mean = "not known" if r.mean is None else shown(r.mean, r.share)
    if r.mean is None or r.low is None or r.high is None:
      return f"{mean} | not known"
    return f"{mean} | {shown(r.low, r.share)} to {shown(r.high, r.share)}"

  lines = [f"* {name}: {value}" for name, value in settings.items()]
  lines += ["", f"| task | length | metric | {'%' if percent else 'mean'} "
            "| 95% interval | items | lost |",
            "| --- | --- | --- | --- | --- | --- | --- |"]
  lines += [f"| {r.task} | {r.length} | {r.metric} | {cells(r)} "
            f"| {r.n} | {r.lost} |" for r in rows]
  return "\n".join(lines) + "\n"
