r"""Answers that published graders misjudge, and the verdicts of ours.

Each test first shows the loophole in the published reward or scorer, then that
our grader does not have it. docs/graders.md is the table of these tests.
"""

import re

import d1_rewards as legacy
import pytest
import runs
from timing import timed

from dlrl import score
from dlrl.tasks.mathematics import competition
from dlrl.tasks.mathematics import gsm8k
from dlrl.tasks.published_scorers import d1
from dlrl.tasks.published_scorers import spg

# A puzzle with two solutions: rows three and four can be exchanged.
PUZZLE = "1234341200000000"
SOLUTION = "1234341221434321"
OTHER = "1234341243212143"
QUESTION = f"Solve the following Sudoku puzzle: {PUZZLE}\n"


def tagged(answer):
  return f"<reasoning>\n...\n</reasoning>\n<answer>\n{answer}\n</answer>"


def sudoku(answer):
  """Legacy reward, and whether our grader finds it solved."""
  [reward] = legacy.sudoku_reward(
    [""], [tagged(answer)], puzzle=[PUZZLE], solution=[SOLUTION])
  return reward, solved("sudoku", QUESTION, tagged(answer), SOLUTION)


def countdown(numbers, target, completion):
  """Legacy reward, and whether our grader finds it solved."""
  [reward] = legacy.countdown_reward(
    [""], [completion], numbers=[numbers], target=[target])
  return reward, solved("countdown", "", completion, [numbers, target])


def solved(task, question, completion, truth):
  generation = score.generation(task, question, completion, truth)
  return score.sound(task, [generation])["solved"] == [1.0]


def gsm8k_total(completion, gold):
  """Sum of the five legacy rewards, and our reward."""
  parts = [reward([""], [completion]) for reward in (
    legacy.tags_reward, legacy.soft_format_reward, legacy.strict_format_reward,
    legacy.integer_reward)]
  parts.append(legacy.gsm8k_reward([""], [completion], answer=[gold]))
  return sum(part[0] for part in parts), gsm8k.correct_reward(
    [""], [completion], answer=[gold])[0]


def math(completion, gold):
  """The legacy correctness reward, and ours."""
  return (legacy.math_reward([""], [completion], answer=[gold])[0],
          competition.correct_reward([""], [completion], answer=[gold])[0])


# Sudoku


def test_sudoku_a_constant_answer_earns_a_quarter():
  assert sudoku("1" * 16) == (0.25, False)


def test_sudoku_short_answers_are_padded_and_long_ones_cut():
  assert sudoku(SOLUTION[:12]) == (0.5, False)
  assert sudoku(SOLUTION + "4444") == (1.0, False)


def test_sudoku_labels_shift_the_digits_of_a_right_grid():
  rows = [f"R{i + 1}: {SOLUTION[4 * i:4 * i + 4]}" for i in range(4)]
  # The right grid earns as little as a wrong one; ours accepts only digits.
  assert sudoku("\n".join(rows)) == (0.0, False)


def test_sudoku_overwritten_clues_earn_everything():
  assert sudoku("4321" + SOLUTION[4:]) == (1.0, False)


def test_sudoku_rows_columns_and_boxes_are_never_checked():
  reward, ours = sudoku(SOLUTION[:12] + "1111")
  assert reward == 0.625 and not ours


def test_sudoku_another_valid_grid_is_punished():
  assert sudoku(OTHER) == (0.0, True)
  assert sudoku(SOLUTION) == (1.0, True)


def test_sudoku_words_around_the_digits_count_for_nothing():
  assert sudoku("The grid is " + " ".join(SOLUTION)) == (1.0, False)


def test_sudoku_text_after_the_answer_is_scored():
  generation = f"<answer></answer> {SOLUTION}<|eot_id|>"
  assert d1.sudoku(QUESTION, generation, SOLUTION) == (8, 8)
  assert not solved("sudoku", QUESTION, generation, SOLUTION)


def test_sudoku_the_published_score_counts_cells_not_puzzles():
  almost = SOLUTION[:15] + "2"
  assert d1.sudoku(QUESTION, tagged(almost), SOLUTION) == (7, 8)
  assert not solved("sudoku", QUESTION, tagged(almost), SOLUTION)


# Countdown


@pytest.mark.parametrize("answer", ["hello", "", "3/(1-1)", "99", "1+1+1"])
def test_countdown_anything_in_the_tags_earns_a_tenth(answer):
  assert countdown([3, 1, 1], 9, tagged(answer)) == (0.1, False)


@pytest.mark.parametrize("numbers, target, answer", [
  ([2, 3, 1], 9, "2**3+1"),
  ([7, 2, 1], 4, "7//2+1"),
  ([1, 5, 2], 3, "1.5*2"),  # counts as a 1 and a 5
  ([5, 3, 2], 4, "-3+5+2"),
  ([5, 3, 2], 4, "+5-3+2"),
])
def test_countdown_powers_floors_decimals_and_signs_pass(
    numbers, target, answer):
  assert countdown(numbers, target, tagged(answer)) == (1.0, False)


def test_countdown_towers_of_powers_hang():
  # Our copy of the published grader also has to bound the power.
  paid = timed(0.05, countdown, [93, 100, 30], 9, tagged("93**(100**30)"))
  assert paid == (0.1, False)


def test_countdown_near_is_right():
  assert countdown([2, 1, 10**6], 2, tagged("2+1/1000000")) == (1.0, False)


def test_countdown_training_and_evaluation_reward_opposite_styles():
  numbers, target = [30, 100, 93], 37
  bare, boxed = "30+100-93", "\\boxed{30+100-93}"
  assert countdown(numbers, target, tagged(bare)) == (1.0, True)
  assert countdown(numbers, target, tagged(boxed)) == (0.1, True)
  truth = [numbers, target]
  assert d1.countdown("", tagged(boxed), truth) == (1, 1)
  # Only one of them takes an equals sign; ours never does.
  equation = "\\boxed{30+100-93 = 37}"
  assert d1.countdown("", equation, truth) == (1, 1)
  assert countdown(numbers, target, tagged("30+100-93 = 37")) == (0.1, False)


def test_countdown_a_sum_anywhere_in_the_text_counts():
  numbers, target = [30, 100, 93], 37
  text = "Perhaps 30 + 100 - 93 = 37? I do not know."
  assert d1.countdown("", text, [numbers, target]) == (1, 1)
  assert countdown(numbers, target, text) == (0.0, False)


# GSM8K


FRAME = tagged("42")


def test_gsm8k_the_formats_refuse_the_frame_that_the_prompt_asks_for():
  frame = FRAME.replace("...", "First, 40.\nThen 2 more.")
  assert legacy.soft_format_reward([""], [frame]) == [0.0]
  assert legacy.strict_format_reward([""], [frame + "\n"]) == [0.0]
  assert gsm8k.format_reward([""], [frame]) == [1.0]


def test_gsm8k_a_bare_number_is_paid():
  assert gsm8k_total("42", "#### 42") == (2.5, 0.0)


def test_gsm8k_digits_that_are_no_number_are_integers():
  assert legacy.integer_reward([""], ["\u00b2"]) == [0.5]
  assert legacy.integer_reward([""], ["-5"]) == [0.0]
  assert gsm8k.format_reward([""], [tagged("\u00b2")]) == [0.0]
  assert gsm8k.format_reward([""], [tagged("-5")]) == [1.0]


def test_gsm8k_a_comma_in_the_gold_is_required_and_then_punished():
  _, plain = gsm8k_total(tagged("1234"), "#### 1,234")
  assert legacy.gsm8k_reward(
    [""], [tagged("1234")], answer=["#### 1,234"]) == [0.0]
  assert legacy.gsm8k_reward(
    [""], [tagged("1,234")], answer=["#### 1,234"]) == [2.0]
  assert legacy.integer_reward([""], [tagged("1,234")]) == [0.0]
  assert plain == gsm8k_total(tagged("1,234"), "#### 1234")[1] == 1.0


@pytest.mark.parametrize("answer", [
  "\\boxed{42}", "$42", "42.0", "42 eggs", "+42", "\\$42"])
def test_gsm8k_another_spelling_of_the_gold_is_wrong(answer):
  assert legacy.gsm8k_reward([""], [tagged(answer)], answer=["42"]) == [0.0]
  assert gsm8k_total(tagged(answer), "42")[1] == 1.0


def test_gsm8k_the_tags_are_charged_for_text_after_them():
  long = FRAME + "\n" + "so " * 500
  assert legacy.tags_reward([""], [FRAME + "\n"]) == [0.5]
  assert legacy.tags_reward([""], [long])[0] < -2
  assert gsm8k.format_reward([""], [long]) == [1.0]


def test_gsm8k_a_boxed_thousand_reads_as_one():
  assert d1.gsm8k("", "\\boxed{1,000}", 1.0) == (1, 1)
  assert d1.gsm8k("", "\\boxed{1,000}", 1000.0) == (0, 1)
  assert not solved("gsm8k", "", "\\boxed{1,000}", 1.0)
  assert solved("gsm8k", "", "\\boxed{1,000}", 1000.0)


def test_gsm8k_the_first_box_counts_and_the_first_number_in_it():
  corrected = "\\boxed{42}, no: \\boxed{43}"
  assert d1.gsm8k("", corrected, 42.0) == (1, 1)
  assert not solved("gsm8k", "", corrected, 42.0)
  assert d1.gsm8k("", "\\boxed{42^{42}}", 42.0) == (1, 1)
  assert not solved("gsm8k", "", "\\boxed{42^{42}}", 42.0)


def test_gsm8k_numbers_are_floats():
  near = "\\boxed{42.00000000000000000001}"
  assert d1.gsm8k("", near, 42.0) == (1, 1)
  assert not solved("gsm8k", "", near, 42.0)


def test_gsm8k_the_last_number_of_a_text_counts_by_spg():
  for text in ("One of 41, 42", "<answer>none</answer> <answer>42"):
    assert d1.gsm8k("", text, 42.0) == (0, 1)
    assert spg.gsm8k("", text, 42.0) == (1, 1)
    assert not solved("gsm8k", "", text, 42.0)


@pytest.mark.parametrize("completion, gold", [
  ("\\boxed{1,080}", "1,080"), ("\\boxed{12.50}", "12.5")])
def test_gsm8k_the_last_digits_are_not_the_last_number(completion, gold):
  # A published grader reads these as "080" and "50".
  assert gsm8k.correct_reward([""], [completion], answer=[gold]) == [1.0]


# MATH


def test_math_a_bare_number_is_paid():
  assert math("3", "3") == (2.0, 0.0)
  assert math(tagged("3"), "3") == (0.0, 1.0)


def test_math_the_format_never_sees_the_box():
  ladder = ["<answer>\\boxed{3}</answer>", "<answer>3</answer>", "<answer>",
            "\\boxed{3}", "3"]
  rewards = legacy.boxed_format_reward([""] * 5, ladder)
  assert rewards == [0.75, 0.75, 0.75, 0.25, 0.25]
  ours = competition.format_reward([""] * 5, ladder)
  assert ours == [1.0, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("gold, answer", [
  ("\\frac{1}{4}", "0.25"), ("10,\\!080", "10080"), ("1000", "1,000"),
  ("1000", "1{,}000"), ("5", "$5$"), ("\\{1, 2\\}", "\\{2, 1\\}"),
  ("[0, 1]", "[0, \\frac{2}{2}]"), ("\\frac{3}{2}", "\\frac{6}{4}"),
  ("5", "f(x) = 5"), ("\\text{Evelyn}", "Evelyn"), ("\\text{(C)}", "C"),
  ("x + 1", "1 + x")])
def test_math_an_equal_answer_is_wrong(gold, answer):
  assert math(f"\\boxed{{{answer}}}", gold) == (0.0, 1.0)


@pytest.mark.parametrize("gold, answer", [
  ("5", "5 \\text{ or 6, who knows}"), ("12", "1 2"), ("50", "\\%50\\%\\%")])
def test_math_what_the_normaliser_drops_is_paid(gold, answer):
  assert math(f"\\boxed{{{answer}}}", gold) == (2.0, 0.0)


def test_math_the_published_score_takes_a_text_without_a_box():
  assert d1.math500("", "3", "3") == (1, 1)
  assert not solved("math500", "", "3", "3")


def test_the_documented_table_is_of_these_tests():
  page = runs.ROOT / "docs" / "graders.md"
  named = set(re.findall(
    r"\| `(test_\w+)` \|$", page.read_text(encoding="utf-8"), re.MULTILINE))
  here = {name for name in globals() if name.startswith("test_")}
  assert named == here - {"test_the_documented_table_is_of_these_tests"}
