import json

import pytest

from dlrl.tasks.mathematics import competition
from dlrl.tasks.mathematics import spelling


def boxed(answer):
  return rf"so \boxed{{{answer}}}"


# Gold, answer, and whether math-verify has to decide.
EQUAL = [
  ("5", "5", False), ("\\frac{1}{4}", "0.25", False),
  ("\\frac14", "\\dfrac{1}{4}", False), ("\\frac{3}{2}", "6/4", False),
  ("0.25", "\\frac14", False), ("10,\\!080", "10080", False),
  ("90^\\circ", "90", False), ("90", "90^{\\circ}", False),
  ("x=5", "5", False), ("5", "x = 5", False), ("5", "f(2)=5", False),
  ("864 \\mbox{ inches}^2", "864", False), ("\\$18.90", "18.9", False),
  ("50\\%", "50", False), ("50", "50\\%", False), ("50\\%", "0.5", False),
  ("\\text{Evelyn}", "Evelyn", False), ("\\text{Evelyn}", "evelyn", False),
  ("\\text{(C)}", "C", False), ("\\text{even}", "\\text{Even}", False),
  ("4210_{5}", "4210_5", False), ("4210_{5}", "4210", False),
  ("11\\sqrt2", "11 \\sqrt{2}", False), ("p - q", "p-q", False),
  ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})", False),
  ("x \\in [-2,7]", "[-2, 7]", False), ("y = 2x + 3", "2x+3", False),
  ("\\frac{\\sqrt{3}}{3}", "\\sqrt{3}/3", True), ("p - q", "-q + p", True),
  ("\\frac{\\sqrt3}{3}", "\\frac{1}{\\sqrt{3}}", True),
  ("3, 5, 7", "7, 3, 5", False), ("\\{1, 2\\}", "\\{2, 1\\}", False),
  ("(0.5, 1)", "(\\frac12, 1)", False),
  ("[0,1)", "[0, \\frac{2}{2})", False),
  ("6 - 5i", "-5i + 6", True), ("(x+1)^2", "x^2+2x+1", True),
  ("\\begin{pmatrix} -1/3 \\\\ 2 \\end{pmatrix}",
   "\\begin{pmatrix} -\\frac{1}{3} \\\\ 2 \\end{pmatrix}", True),
  ("5x - 7y + 4 = 0", "5x - 7y = -4", True), ("y = -2x", "y=-x-x", True),
]
DIFFERENT = [
  ("5", "6", False), ("5", "x", False), ("5", "", False), ("5", "5x", False),
  ("5", "2x+3=5", False), ("x=5", "y=5", False), ("5", "5, 6", False),
  ("1/3", "0.333333", False), ("0.5", "50", False), ("1,000", "1", False),
  ("10^{-7}", "0.0", True), ("\\sqrt{2}", "1.414214", True),
  ("12", "1 2", False), ("5", "5_7", False), ("4210_{5}", "4210_7", False),
  ("4210_{5}", "2410", False), ("\\text{east}", "seat", False),
  ("\\text{east}", "\\text{west}", False), ("\\text{(C)}", "B", False),
  ("(1,2)", "(2,1)", False), ("(3,4]", "(3,4)", False),
  ("(1,2)", "\\{1,2\\}", False), ("\\{1,2\\}", "(1,2)", False),
  ("(1,2)", "x=1, y=2", False), ("2\\sqrt{5}", "2", True),
  ("p - q", "q - p", True), ("1,-2", "1", False), ("x+1", "x+2", True),
  # Answers that are not worked out.
  ("18", "3 \\cdot 6", False), ("1024", "2^{10}", False),
  ("10", "\\binom{5}{2}", False), ("2", "\\int_0^2 1 dx", False),
  ("120", "5!", False), ("3", "\\lfloor \\pi \\rfloor", False),
]


@pytest.mark.parametrize("gold, answer, verify", EQUAL)
def test_equal_answers_are_right(gold, answer, verify):
  decided = competition.decided(gold, answer)
  assert decided is (None if verify else True)
  assert competition.correct_reward(
    [""], [boxed(answer)], answer=[gold]) == [1.0]


@pytest.mark.parametrize("gold, answer, verify", DIFFERENT)
def test_different_answers_are_wrong(gold, answer, verify):
  decided = competition.decided(gold, answer)
  assert decided is (None if verify else False)
  assert competition.correct_reward(
    [""], [boxed(answer)], answer=[gold]) == [0.0]


@pytest.mark.parametrize("completion", [
  "3", "", "It is 3.", "$3$", "3</answer>", "<answer>3", "\\boxed{3",
  "<answer></answer>\\boxed{3}", "boxed{3}", "<answer>...</answer>"])
def test_a_completion_that_states_no_answer_earns_nothing(completion):
  assert competition.correct_reward(
    [""], [completion], answer=["3"]) == [0.0]


@pytest.mark.parametrize("completion", [
  "<answer>3</answer>", "<answer>$3$.</answer>", "\\boxed{3}", "#### 3",
  "The answer is \\(3\\).", "<answer>\\boxed{3}</answer>"])
def test_an_answer_can_be_stated_in_any_marked_form(completion):
  assert competition.correct_reward(
    [""], [completion], answer=["3"]) == [1.0]


def test_the_gold_is_latex_or_the_last_box_of_a_solution():
  completions = [boxed("\\frac12")] * 2
  golds = ["\\frac{1}{2}", "As \\boxed{1} shows, $x = \\boxed{\\frac{1}{2}}$."]
  assert competition.correct_reward(
    ["", ""], completions, answer=golds) == [1.0, 1.0]
  with pytest.raises(ValueError, match="holds no gold answer"):
    competition.correct_reward([""], [""], answer=[" "])


def test_a_batch_keeps_its_order():
  golds = ["x+1", "5", "x+1", "x+1"]
  completions = [boxed("1+x"), boxed("5"), boxed("x"), boxed("1+x")]
  metrics = competition.metrics([""] * 4, completions, answer=golds)
  assert metrics == {"solved": [1.0, 1.0, 0.0, 1.0], "format": [1.0] * 4}
  assert competition.format_reward(
    ["", ""], ["3", "<answer> </answer>"]) == [0.0, 0.0]


def test_an_answer_too_long_to_be_one_is_not_read():
  answer = "1+" * 300 + "1"
  assert competition.decided(answer, answer) is False


@pytest.mark.shared_data
def test_the_public_files_golds_are_right_by_the_normaliser(shared):
  lines = [line for name in ("math500_test", "math_test_minus_math500_4500")
           for line in (shared / "data/math" / f"{name}.jsonl"
                        ).read_text().splitlines()]
  for row in map(json.loads, lines):
    gold = competition.gold(row["solution"])
    assert competition.decided(gold, gold)
    assert spelling.normal(row.get("answer", gold)) == spelling.normal(gold)
