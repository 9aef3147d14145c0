"""Several tasks at once."""

import dataclasses

import pytest

from dlrl import config
from dlrl import strict
from dlrl import tasks
from dlrl.tasks import mixture

GRID = "1234341221434321"
SUDOKU = {"puzzle": "0234341221434321", "solution": GRID, "difficulty": 1,
          "index": 3, "task": "sudoku"}
COUNTDOWN = {"numbers": [5, 3, 2], "target": 4, "solution": "5-3+2",
             "difficulty": 1, "index": 3, "task": "countdown"}
BOTH = tasks.find(config.TaskConfig(name="sudoku+countdown"))


def test_rows_of_all_tasks_follow_each_other_and_say_whose_they_are():
  rows = mixture.MixedExamples(
    {"a": [{"x": 1}, {"x": 2}], "b": [], "c": [{"y": 3}]}, (1.0, 1.0, 1.0)
  )
  want = [{"x": 1, "task": "a"}, {"x": 2, "task": "a"}, {"y": 3, "task": "c"}]
  assert list(rows) == [rows[i] for i in range(3)] == rows[:] == want
  assert rows[-1] == want[2]
  assert rows.parts == [range(0, 2), range(2, 2), range(2, 3)]
  with pytest.raises(IndexError):
    rows[3]


def test_a_mixture_loads_of_each_task_what_it_has_of_the_range(sudoku_dir):
  both = tasks.find(config.TaskConfig(name="sudoku+countdown_digits"))
  rows = both.load(sudoku_dir, "test", (2, 5))
  found = {name: {row["difficulty"] for row in rows if row["task"] == name}
           for name in ("sudoku", "countdown_digits")}
  assert found == {"sudoku": {2, 3, 4, 5}, "countdown_digits": {2}}
  with pytest.raises(strict.ConfigError, match=r"eval\.difficulty"):
    both.load(sudoku_dir, "test", (3, 5), field="eval.difficulty")


def test_each_row_is_asked_and_answered_as_its_task_does():
  for style in ("bare", "dlrl", "d1"):
    for row in (SUDOKU, COUNTDOWN):
      alone = tasks.TASKS[row["task"]].prompts[style]
      assert BOTH.prompts[style].question(row) == alone.question(row)
      assert BOTH.prompts[style].answer(row) == alone.answer(row)
  assert BOTH.rewards.keys() == {"solved"}  # Countdown has no other
  assert BOTH.difficulties == (1, 12)
  for row in (SUDOKU, COUNTDOWN):
    assert BOTH.template(row) == tasks.TASKS[row["task"]].template(row)


def test_rewards_and_metrics_are_those_of_each_task():
  rows = [SUDOKU, COUNTDOWN, SUDOKU, COUNTDOWN, COUNTDOWN]
  texts = [GRID, "5-3+2", "5-3+2", GRID, "5+3+2"]
  columns = tasks.columns(rows)
  reward = BOTH.rewards["solved"](["?"] * 5, texts, **columns)
  assert reward == [1, 1, 0, 0, 0]
  got = BOTH.metrics(["?"] * 5, texts, **columns)
  assert got == {
    "solved": [1, 1, 0, 0, 0],
    "sudoku/solved": [1, None, 0, None, None],
    "sudoku/cells": [1, None, 0, None, None],
    "sudoku/format": [1, None, 0, None, None],
    "countdown/solved": [None, 1, None, 0, 0],
    "countdown/format": [None, 1, None, 0, 1],
    "countdown/easy": [None, 1, None, 1, 1]}


def test_what_one_task_does_not_know_stays_in_its_place():
  unknown = dataclasses.replace(
    tasks.TASKS["sudoku"],
    rewards={"solved": lambda prompts, texts, **columns: [None] * len(texts)})
  both = mixture.mix({"sudoku": unknown, "countdown": tasks.TASKS["countdown"]})
  rows = [COUNTDOWN, SUDOKU, COUNTDOWN]
  reward = both.rewards["solved"](
    ["?"] * 3, ["5-3+2"] * 3, **tasks.columns(rows))
  assert reward == [1, None, 1]
