import json

import pytest
from timing import timed

from dlrl.tasks.published_scorers import d1
from dlrl.tasks.published_scorers import spg

PUZZLE = "1234341200000000"
SOLUTION = "1234341221434321"
QUESTION = f"Solve the following Sudoku puzzle: {PUZZLE}\n"
SCORERS = {"countdown": d1.countdown, "gsm8k": d1.gsm8k,
           "math500": d1.math500, "sudoku": d1.sudoku}


@pytest.mark.shared_data
@pytest.mark.parametrize("task, n, percent", [
  ("countdown", 256, 19.53), ("math500", 500, 32.40), ("sudoku", 256, 6.69),
  ("gsm8k", 1130, 76.37)])
def test_the_published_scores_of_real_outputs(shared, task, n, percent):
  path = shared / "data/llada_outputs" / f"{task}_len256_steps128.jsonl"
  rows = list(map(json.loads, path.read_text().splitlines()))
  pairs = [SCORERS[task](r["question"], r["generation"], r["ground_truth"])
           for r in rows]
  points, out_of = (sum(column) for column in zip(*pairs, strict=True))
  assert len(rows) == n
  assert round(100 * points / out_of, 2) == percent


@pytest.mark.shared_data
def test_spgs_score_of_real_outputs(shared):
  # 880 by the published program, of which 17 are numbers that d1 does not see.
  path = shared / "data/llada_outputs/gsm8k_len256_steps128.jsonl"
  rows = list(map(json.loads, path.read_text().splitlines()))
  assert sum(spg.gsm8k("", r["generation"], r["ground_truth"])[0]
             for r in rows) == 880


@pytest.mark.parametrize("generation, points", [
  (f"<answer>\n{SOLUTION}\n</answer>", 8),
  (f"<answer>{SOLUTION}<|eot_id|>", 8),
  (f"<answer>{SOLUTION}", 8),  # by the rule of any 16 digits
  (f"<answer>so\n```\n{' '.join(SOLUTION)}\n```</answer>", 8),
  (f"<answer>  </answer>\n{SOLUTION}<|endoftext|>", 8),
  (f"{SOLUTION}\n</answer>", 8),
  (f"It is {SOLUTION}.", 8),
  (f"<answer>{SOLUTION[:10]}</answer>", 2),
  (f"<answer>= {SOLUTION}</answer>", 1),  # any sign stays, and shifts the rest
  (f"<answer>{PUZZLE}</answer> or {SOLUTION}", 0),
  ("", 0), ("<answer>", 0), ("```1```", 0),
])
def test_where_a_sudoku_answer_is_looked_for(generation, points):
  assert d1.sudoku(QUESTION, generation, SOLUTION) == (points, 8)


def test_a_sudoku_question_without_a_puzzle_is_an_error():
  with pytest.raises(ValueError, match="no puzzle of 16 digits"):
    d1.sudoku("123412341234123", "", SOLUTION)


@pytest.mark.parametrize("generation, points", [
  ("\\boxed{30+100-93}", 1), ("30 + 100 - 93", 1),
  ("so 30+100-93 = 37 it is", 1), ("\\boxed{30 + 100 - 93 = 37}", 1),
  ("\\boxed{30 + 100 - 93 = 5}", 1),  # the value that is written is not read
  ("<answer>30+100-93</answer>", 0),  # no box: the whole text, tags and all
  ("<answer>30+100-93</answer>\\boxed{", 1),
  ("<answer>1</answer><answer>30+100-93</answer>\\boxed{", 0),
  ("\\boxed{30 \\times 1 + 100-93}", 0), ("\\boxed{30+100\\cdot93}", 0),
  ("", 0), ("\\boxed{}", 0),
])
def test_where_a_countdown_answer_is_looked_for(generation, points):
  assert d1.countdown("", generation, [[30, 100, 93], 37]) == (points, 1)


def test_countdown_takes_latex_operators():
  assert d1.countdown("", "\\boxed{80 \\div 40 \\div 2}",
                             [[80, 2, 40], 1]) == (1, 1)
  assert d1.countdown("", "\\boxed{2 \\times 4 \\cdot 1}",
                             [[1, 2, 4], 8]) == (1, 1)


@pytest.mark.parametrize("generation, number", [
  ("\\boxed{18} \\boxed{19}", 18.0), ("\\boxed{...} \\boxed{19}", 19.0),
  ("\\boxed{} \\boxed{19}", 19.0), ("\\boxed{x} \\boxed{19}", 19.0),
  ("\\boxed{1,000}", 1.0), ("\\boxed{-2.50}", -2.5),
  ("\\boxed{about 5 of 6}", 5.0), ("\\boxed{18\n} <answer>3</answer>", 3.0),
  ("<answer>5 of 6</answer><answer>7</answer>", 6.0), ("#### 5", None),
  ("<answer>none</answer>", None), ("5", None),
])
def test_where_a_gsm8k_number_is_looked_for(generation, number):
  if number is None:
    assert d1.gsm8k("", generation, 5.0) == (0, 1)
  else:
    assert d1.gsm8k("", generation, number) == (1, 1)
  assert d1.gsm8k("", generation, None) == (0, 1)


# Numbers by SPG's published program; d1's has none of those of the second half.
@pytest.mark.parametrize("generation, number", [
  ("\\boxed{18} 19", 18.0), ("<answer>5 of 6</answer> 7", 6.0),
  ("\\boxed{x} <answer>8</answer> 9", 8.0),
  ("5", 5.0), ("#### 5", 5.0), ("of 5 and 6.", 6.0), ("about 1,000", 0.0),
  ("6 <answer>5", 5.0), ("5</answer> 6", 5.0),
  ("<answer>none</answer> 6", None), ("4 <answer>3 <answer>5", 5.0),
  ("<answer>none</answer><answer>5</answer>", 5.0), ("five", None), ("", None),
])
def test_where_spg_looks_for_a_gsm8k_number_when_d1_finds_none(
    generation, number):
  for right in (number, 123.0):
    assert spg.gsm8k("", generation, right) == (
      int(number is not None and right == number), 1)


@pytest.mark.parametrize("generation, points", [
  ("\\boxed{\\frac12}", 1), ("\\boxed{1/2}", 1), ("\\boxed{0.5}", 1),
  ("\\boxed{0.50}", 0), ("1/2", 1), ("<answer>1/2</answer>", 0),
  ("<answer>1/2</answer>\\boxed{}", 1), ("<answer>1/2</answer>\\boxed{", 1),
  ("\\boxed{1/2} \\boxed{2}", 0), ("\\boxed 1/2", 1), ("", 0),
])
def test_where_a_math_answer_is_looked_for(generation, points):
  assert d1.math500("", generation, "\\frac{1}{2}") == (points, 1)


@pytest.mark.parametrize("scorer", [*SCORERS.values(), spg.gsm8k])
@pytest.mark.parametrize("part", [
  "\\boxed{", "<answer>", "<answer>```", "```1 ", "(", "1 ", "</answer>"])
def test_a_long_text_of_the_same_part_takes_no_time(scorer, part):
  truth = [[1, 2], 3] if scorer is d1.countdown else SOLUTION
  timed(0.15, scorer, QUESTION, part * (140_000 // len(part)), truth)
