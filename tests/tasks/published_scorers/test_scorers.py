import pytest

from dlrl import tasks
from dlrl.tasks.published_scorers import scorers

SUDOKU = {"puzzle": "0432234131244210", "solution": "1432234131244213"}
CASES = {
  "sudoku": ({**SUDOKU}, "1432234131244211",
             {"legacy_d1": 0.5, "solved": 0.0, "cells": 0.5}),
  "countdown": ({"numbers": (2, 3, 1), "target": 9, "difficulty": 1},
                "\\boxed{2**3+1}", {"legacy_d1": 1.0, "solved": 0.0}),
  "gsm8k": ({"answer": "#### 1,000"}, "\\boxed{1000} or \\boxed{3}",
            {"legacy_d1": 1.0, "solved": 0.0}),
  "math": ({"answer": "\\frac{1}{4}"}, "\\boxed{0.25}",
           {"legacy_d1": 0.0, "solved": 1.0}),
}


@pytest.mark.parametrize("name", CASES)
def test_d1s_rules_stand_beside_ours(name):
  row, text, want = CASES[name]
  assert scored("legacy_d1", name, row, text).items() >= want.items()


def scored(scorer, name, row, text, end=""):
  task = scorers.SCORERS[scorer](name, tasks.TASKS[name])
  found = task.metrics(
    ["?"], [text], **tasks.columns([row]), generation=[text + end])
  return {k: v[0] for k, v in found.items()}


def test_published_scorers_read_past_the_end_and_ours_do_not():
  found = scored("legacy_d1", "sudoku", SUDOKU, "no",
                 end="<|eot_id|> " + SUDOKU["solution"])
  assert (found["legacy_d1"], found["solved"]) == (1.0, 0.0)


def test_spg_finds_a_number_that_d1_does_not():
  row = {"answer": "#### 18"}
  assert scored("legacy_spg", "gsm8k", row, "It is 18")["legacy_spg"] == 1.0
  assert scored("legacy_d1", "gsm8k", row, "It is 18")["legacy_d1"] == 0.0
  assert scored("legacy_spg", "sudoku", SUDOKU, "no")["legacy_spg"] == 0.0


def test_a_share_of_cells_says_of_how_many():
  of = {name: scorers.SCORERS["legacy_spg"](name, tasks.TASKS[name]).out_of[
    "legacy_spg"](row) for name, (row, _, _) in CASES.items()}
  assert of == {"sudoku": 2, "countdown": 1, "gsm8k": 1, "math": 1}


def test_ours_are_the_default_and_unchanged():
  assert scorers.SCORERS["sound"]("sudoku", tasks.TASKS["sudoku"]) is (
    tasks.TASKS["sudoku"])


def test_a_variant_of_a_task_has_its_scorer():
  task = scorers.SCORERS["legacy_d1"]("sudoku_spg", tasks.TASKS["sudoku_spg"])
  assert task.metrics is not tasks.TASKS["sudoku_spg"].metrics


def test_a_task_that_d1_did_not_score_is_refused():
  with pytest.raises(ValueError, match="countdown, gsm8k, math, sudoku"):
    scorers.SCORERS["legacy_d1"]("mbpp", tasks.TASKS["sudoku"])
