"""Countdown with four and five numbers."""

import collections
import itertools

import pytest

from dlrl import tasks
from dlrl.tasks.countdown import drawn_data as countdown_drawn_data
from dlrl.tasks.countdown import grading as countdown


@pytest.fixture(scope="module", params=[4, 5])
def task(request, sudoku_dir):
  found = tasks.TASKS[f"countdown{request.param}"]
  return request.param, {split: found.load(sudoku_dir, split, (1, 2))
                         for split in tasks.SPLITS}


def test_every_problem_is_solved_by_its_solution(task):
  count, splits = task
  for split, rows in splits.items():
    columns = tasks.columns(rows)
    scores = countdown.metrics(["?"] * len(rows), columns["solution"],
                               **columns)
    assert set(scores["solved"]) == set(scores["format"]) == {1.0}
    size = countdown_drawn_data.PER_DIFFICULTY[split]
    assert collections.Counter(columns["difficulty"]) == {1: size, 2: size}
    assert sum(scores["easy"]) == size
    for row in rows:
      assert len(row["numbers"]) == count
      assert 1 <= min(row["numbers"]) <= max(row["numbers"]) <= 99
      assert 1 <= row["target"] <= 99
      assert len(row["solution"]) <= countdown.template(row)[0]


def test_difficulty_2_is_what_no_signs_can_reach(task):
  _, splits = task
  for row in splits["test"]:
    reachable = {sum(s * n for s, n in zip(signs, row["numbers"], strict=True))
                 for signs in itertools.product((1, -1),
                                                repeat=len(row["numbers"]))
                 if 1 in signs}  # something has to come first
    assert (row["difficulty"] == 1) == (row["target"] in reachable)
    assert (row["difficulty"] == 2) <= bool(set("*/") & set(row["solution"]))


def test_no_numbers_are_in_two_problems_in_any_order(task):
  _, splits = task
  seen = [tuple(sorted(row["numbers"]))
          for rows in splits.values() for row in rows]
  assert len(set(seen)) == len(seen)


def test_sums_are_all_that_plus_and_minus_reach():
  found = countdown_drawn_data.sums([7, 3, 20, 3])
  assert found.keys() == {33, 27, 21, 19, 13, 7}
  for target, text in found.items():
    assert countdown.solved([7, 3, 20, 3], target, text)


def test_an_expression_has_no_parentheses_that_it_does_not_need():
  def join(symbol, a, b):
    return countdown_drawn_data._join(symbol, a, b)

  two, three, six = (("2", 2, 3), ("3", 3, 3), ("6", 6, 3))
  difference = join("-", six, two)
  assert difference == ("6-2", 4, 1)
  assert join("+", three, difference)[0] == "3+6-2"
  assert join("-", six, join("-", three, two))[0] == "6-(3-2)"
  assert join("*", difference, three)[0] == "(6-2)*3"
  assert join("/", six, join("*", three, two))[0] == "6/(3*2)"
  assert join("*", three, join("/", six, two))[0] == "3*6/2"
  assert join("-", difference, three)[0] == "6-2-3"
