import pytest

from dlrl import tasks
from dlrl.tasks import scorers

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
  task = scorers.SCORERS["legacy_d1"](name, tasks.TASKS[name])
  found = task.metrics(["?"], [text], **tasks.columns([row]))
  assert {k: found[k][0] for k in want} == want


def test_ours_are_the_default_and_unchanged():
  assert scorers.SCORERS["sound"]("sudoku", tasks.TASKS["sudoku"]) is (
    tasks.TASKS["sudoku"])


def test_a_variant_of_a_task_has_its_scorer():
  task = scorers.SCORERS["legacy_d1"]("sudoku_spg", tasks.TASKS["sudoku_spg"])
  assert task.metrics is not tasks.TASKS["sudoku_spg"].metrics


def test_a_task_that_d1_did_not_score_is_refused():
  with pytest.raises(ValueError, match="countdown, gsm8k, math, sudoku"):
    scorers.SCORERS["legacy_d1"]("mbpp", tasks.TASKS["sudoku"])
