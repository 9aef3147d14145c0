"""Countdown with four digits, by + and -."""

import collections
import itertools

import pytest

from dlrl import strict
from dlrl import tasks
from dlrl.tasks.countdown import data as countdown_data
from dlrl.tasks.countdown import four_digits
from dlrl.tasks.countdown import grading as countdown

TASK = tasks.TASKS["countdown_digits4"]


@pytest.fixture(scope="module")
def splits(sudoku_dir):
  return {split: [*TASK.load(sudoku_dir, split, (1, 1))]
          for split in ("train", "test")}


def test_all_problems_are_there_once_in_every_order(splits):
  found = collections.Counter(
    (tuple(row["numbers"]), row["target"])
    for rows in splits.values() for row in rows)
  assert set(found.values()) == {1}
  wanted = set()
  for order in itertools.product(range(1, 10), repeat=4):
    # What is added, by which sets of places: the rest is subtracted.
    for places in itertools.chain.from_iterable(
        itertools.combinations(range(4), size) for size in (1, 2, 3, 4)):
      target = 2 * sum(order[i] for i in places) - sum(order)
      if 1 <= target <= 99:
        wanted.add((order, target))
  assert found.keys() == wanted


def test_every_solution_is_right_and_has_no_other_operator(splits):
  for rows in splits.values():
    columns = tasks.columns(rows)
    scores = countdown.metrics(
      ["?"] * len(rows), columns["solution"], **columns)
    assert set(scores["solved"]) == set(scores["format"]) == {1.0}
    assert set("".join(columns["solution"])) <= set("123456789+-")


def test_numbers_of_a_solution_keep_their_order():
  assert four_digits.solution((3, 1, 9, 2), 15) == "3+1+9+2"
  assert four_digits.solution((3, 1, 9, 2), 9) == "3+9-1-2"
  assert four_digits.solution((2, 2, 5, 1), 6) == "2+5+1-2"
  with pytest.raises(StopIteration):
    four_digits.solution((1, 1, 1, 1), 3)


def test_splits_share_no_problem_in_any_order(splits):
  train, test = ({(tuple(sorted(row["numbers"])), row["target"])
                  for row in splits[split]} for split in ("train", "test"))
  assert not train & test
  assert len(test) / len(train | test) == pytest.approx(
    1 / countdown_data.TESTS, abs=1e-3)


def test_prompts_have_one_length_and_there_is_no_validation(
    splits, sudoku_dir):
  question = TASK.prompts["bare"].question
  assert {len(question(row)) for row in splits["test"]} == {10}
  assert question({"numbers": [3, 1, 9, 2], "target": 9}) == "3,1,9,2=09"
  with pytest.raises(strict.ConfigError, match="no validation rows, only"):
    TASK.load(sudoku_dir, "validation", (1, 1))
