import pytest

from dlrl.evaluation import intervals
from dlrl.evaluation import table


def record(item, sample, answer, *, length=16, task="t", **values):
  return {"item": item, "sample": sample, "answer": answer, "length": length,
          "task": task, "scores": values}


def found(records, metric):
  return next(s for s in table.summarize(records) if s.metric == metric)


def test_one_completion_per_item_has_a_wilson_interval():
  rows = [record(i, 0, "x", right=float(i < 3)) for i in range(10)]
  score = found(rows, "right")
  assert (score.n, score.mean) == (10, 0.3)
  assert (score.low, score.high) == intervals.wilson(3, 10)
  assert [s.metric for s in table.summarize(rows)] == ["right"]


def test_a_fraction_has_an_interval_of_its_mean():
  rows = [record(i, 0, "x", cells=i / 8) for i in range(9)]
  score = found(rows, "cells")
  assert score.mean == pytest.approx(0.5)
  assert (score.low, score.high) == intervals.mean_interval(
    [i / 8 for i in range(9)])


# Item 0: a, a, b of which b is right; item 1: right by majority; item 2: none
# is right; item 3: no answer was found but once, and that one is right.
SAMPLES = [
  record(0, 0, "a", right=0.0), record(0, 1, "a", right=0.0),
  record(0, 2, "b", right=1.0),
  record(1, 0, "c", right=1.0), record(1, 1, "d", right=0.0),
  record(1, 2, "c", right=1.0),
  record(2, 0, None, right=0.0), record(2, 1, None, right=0.0),
  record(2, 2, None, right=0.0),
  record(3, 0, None, right=0.0), record(3, 1, "e", right=1.0),
  record(3, 2, None, right=0.0),
]


def test_samples_give_their_mean_any_and_majority():
  assert found(SAMPLES, "right").mean == pytest.approx(4 / 12)
  assert found(SAMPLES, "right_pass@3").mean == 3 / 4
  assert found(SAMPLES, "right_maj@3").mean == 2 / 4


def test_the_interval_of_samples_is_over_items():
  score = found(SAMPLES, "right")
  assert score.n == 4
  assert (score.low, score.high) == intervals.mean_interval(
    [1 / 3, 2 / 3, 0.0, 1 / 3])


def test_of_equally_frequent_answers_the_first_sample_counts():
  rows = [record(0, 1, "b", right=1.0), record(0, 0, "a", right=0.0)]
  assert found(rows, "right_maj@2").mean == 0.0


def test_cells_of_all_items_are_counted_together():
  # 1 of 4, 6 of 8, and of 3 none: 7 of 15, not the mean of the shares.
  rows = [record(item, 0, "x", cells=share) | {"out_of": {"cells": size}}
          for item, (share, size) in enumerate([(0.25, 4), (0.75, 8), (0, 3)])]
  score = found(rows, "cells")
  assert (score.n, score.mean) == (3, pytest.approx(7 / 15))
  assert (score.low, score.high) == intervals.pooled_interval(
    [0.25, 0.75, 0], [4, 8, 3])


def test_samples_of_an_item_share_its_cells():
  rows = [record(item, sample, "x", cells=share) | {"out_of": {"cells": size}}
          for item, size, shares in ((0, 2, (0.5, 1.0)), (1, 10, (0.1, 0.3)))
          for sample, share in enumerate(shares)]
  # Cells of all samples, 1 + 2 + 1 + 3 of 24.
  assert found(rows, "cells").mean == pytest.approx(7 / 24)


def test_as_many_cells_in_each_item_make_no_difference():
  plain = [record(i, 0, "x", cells=float(i < 3)) for i in range(8)]
  sized = [r | {"out_of": {"cells": 8}} for r in plain]
  assert table.summarize(sized) == table.summarize(plain)


def test_a_grader_that_broke_down_is_no_failure():
  rows = [record(0, 0, "a", right=1.0), record(1, 0, "a", right=None),
          record(2, 0, "a", right=0.0)]
  score = found(rows, "right")
  assert (score.mean, score.n, score.lost) == (0.5, 2, 1)


def test_nothing_known_is_no_score():
  rows = [record(0, 0, "a", right=None)]
  score = found(rows, "right")
  assert (score.n, score.low, score.high, score.lost) == (0, 0.0, 1.0, 1)
  assert score.mean is None
  assert "| right | not known | not known | 0 | 1 |" in table.markdown(
    table.summarize(rows), {})


@pytest.mark.parametrize("values", [
  [17.0, 18.0, 19.0], [1.0, -1.0, -1.0, 1.0], [-1.0] * 3, [0.25, 0.75],
  [0.0, 1.0, 1.0], [1e6, -1e-6]])
def test_a_metric_of_any_numbers_has_an_interval_that_contains_its_mean(values):
  rows = [record(i, 0, "x", judge=v) for i, v in enumerate(values)]
  score, = table.summarize(rows, ["judge"])
  assert score.low <= score.mean <= score.high
  assert not score.share
  if set(values) <= {0, 1}:
    assert (score.low, score.high) == intervals.wilson(2, 3)
  else:
    assert (score.low, score.high) == intervals.t_interval(values)


def test_only_shares_are_in_percent():
  rows = [record(i, 0, "x", judge=v, right=1.0) for i, v in enumerate([17, 19])]
  text = table.markdown(table.summarize(rows, ["t/judge"]), {})
  assert "| metric | mean | 95% interval |" in text
  assert "| judge | 18 | 5.294 to 30.71 | 2 | 0 |" in text
  assert "| right | 100.0% | 34.2% to 100.0% | 2 | 0 |" in text
  one = table.markdown(table.summarize(rows[:1], ["judge"]), {})
  assert "| judge | 17 | not known | 1 | 0 |" in one


def test_tasks_and_lengths_are_apart():
  rows = [record(0, 0, "a", right=1.0, length=16),
          record(0, 0, "a", right=0.0, length=32),
          record(0, 0, "a", right=0.0, task="u")]
  assert {(s.task, s.length): s.mean for s in table.summarize(rows)} == {
    ("t", 16): 1.0, ("t", 32): 0.0, ("u", 16): 0.0}


def test_which_rows_there_are_does_not_depend_on_the_scores():
  def rows(*shares):
    return [s.metric for s in table.summarize([
      record(item, sample, "x", cells=share, right=1.0)
      for item in range(2) for sample, share in enumerate(shares)])]
  wanted = [f"{name}{end}" for name in ("cells", "right")
            for end in ("", "_pass@3", "_maj@3")]
  for shares in ((0.0, 0.0, 0.0), (0.0, 0.5, 1.0), (1.0, 0.0, None),
                 (None, None, None), (17.0, -2.0, 0.5)):
    assert rows(*shares) == wanted, shares


def test_the_best_and_the_majoritys_share():
  rows = [record(0, 0, "a", cells=0.25), record(0, 1, "b", cells=0.75),
          record(0, 2, "a", cells=0.25), record(1, 0, "c", cells=0.5),
          record(1, 1, "d", cells=0.5), record(1, 2, "d", cells=0.5)]
  assert found(rows, "cells_pass@3").mean == pytest.approx((0.75 + 0.5) / 2)
  assert found(rows, "cells_maj@3").mean == pytest.approx((0.25 + 0.5) / 2)
  sized = [r | {"out_of": {"cells": 4 if r["item"] else 12}} for r in rows]
  assert found(sized, "cells_pass@3").mean == pytest.approx((9 + 2) / 16)


def test_a_completion_that_was_written_twice_counts_once():
  assert table.summarize([*SAMPLES, *SAMPLES]) == table.summarize(SAMPLES)


def test_the_table_names_what_it_is_true_of():
  text = table.markdown(
    table.summarize([record(0, 0, "x", right=1.0)]), {"prompt": "dlrl"})
  assert "* prompt: dlrl\n" in text
  assert "| t | 16 | right | 100.0 | 20.7 to 100.0 | 1 | 0 |" in text
