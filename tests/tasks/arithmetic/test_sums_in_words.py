"""Sums as English words: the data, their prompts and their reward."""

import itertools

import pytest

from configs import bgpo
from dlrl import tasks
from dlrl.models import char_tokenizer
from dlrl.tasks.arithmetic import data
from dlrl.tasks.arithmetic import grading

TASK = tasks.TASKS["sums_in_words"]
# By the endings, with the exceptions of English.
DIGITS = ("", "one", "two", "three", "four", "five", "six", "seven", "eight",
          "nine")
VALUES = {word: value for value, word in enumerate(DIGITS) if word} | {
  f"{word}teen": 10 + value for value, word in enumerate(DIGITS)} | {
  f"{word}ty": 10 * value for value, word in enumerate(DIGITS)} | {
  "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fifteen": 15,
  "eighteen": 18, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50,
  "eighty": 80}


def value(text):
  tens, _, ones = text.partition("-")
  if not ones:
    return VALUES[tens]
  assert VALUES[tens] >= 20 and 1 <= VALUES[ones] <= 9
  return VALUES[tens] + VALUES[ones]


def numbers(row):
  left, plus, right = row["puzzle"].split(" ")
  assert plus == "plus"
  assert left == str(int(left)) and right == str(int(right))
  return int(left), int(right)


@pytest.fixture(scope="module")
def splits(sudoku_dir):
  return {split: TASK.load(sudoku_dir, split, TASK.difficulties)
          for split in tasks.SPLITS}


def test_every_solution_is_the_sum(splits):
  for row in itertools.chain(*splits.values()):
    assert sum(numbers(row)) == value(row["solution"])


def test_the_difficulty_says_what_has_to_be_added(splits):
  for row in itertools.chain(*splits.values()):
    (a, x), (b, y) = (divmod(n, 10) for n in numbers(row))
    if 0 in (a, b, x, y):
      assert row["difficulty"] == 1
    else:
      assert row["difficulty"] == (3 if x + y >= 10 else 2)


def test_splits_share_no_sum_and_have_all(splits):
  pairs = {split: {tuple(sorted(numbers(row))) for row in rows}
           for split, rows in splits.items()}
  for one, other in itertools.combinations(pairs.values(), 2):
    assert not one & other
  assert set().union(*pairs.values()) == {
    (a, b) for a in range(1, 100) for b in range(a, 100) if a + b < 100}
  for rows in splits.values():
    assert {row["difficulty"] for row in rows} == {1, 2, 3}
    assert len({row["puzzle"] for row in rows}) == len(rows)


def test_both_orders_of_a_sum_are_asked(splits):
  for rows in splits.values():
    asked = {numbers(row) for row in rows}
    assert asked == {(b, a) for a, b in asked}


def test_questions_and_answers_fit_the_preset(splits):
  cfg, tokenizer = bgpo.get_config("text"), char_tokenizer.ByteTokenizer()
  prompt = TASK.prompts["bare"]
  for row in itertools.chain(*splits.values()):
    assert len(tokenizer.prompt(prompt.question(row))) <= cfg.task.prompt_length
    size = len(tokenizer.encode(prompt.answer(row)))
    assert size <= min(cfg.sft.gen_length, cfg.rollout.sampler.gen_length)
  assert prompt.question({"puzzle": "47 plus 28"}) == "What is 47 plus 28?"


@pytest.mark.parametrize(("completion", "solved", "form"), [
  ("forty-two", 1, 1), (" forty-two\n", 1, 1),
  ("so <answer>forty-two</answer>", 1, 1),
  ("forty-one", 0, 1), ("zero", 0, 1), ("Forty-two", 0, 0),
  ("forty two", 0, 0), ("forty-two forty-two", 0, 0), ("42", 0, 0),
  ("forty-\ufffdtwo", 0, 0), ("forty-ten", 0, 0), ("hundred", 0, 0),
  ("", 0, 0), ("\x1b[2Jforty-two", 0, 0), ("forty\u2010two", 0, 0)])
def test_only_the_name_of_the_number_is_right(completion, solved, form):
  columns = {"solution": ["forty-two"]}
  assert grading.solved_reward(["?"], [completion], **columns) == [solved]
  assert grading.metrics(["?"], [completion], **columns) == {
    "solved": [solved], "format": [form]}


def test_the_solutions_have_the_reward(splits):
  for rows in splits.values():
    columns = tasks.columns(rows)
    found = grading.metrics(["?"] * len(rows), columns["solution"], **columns)
    assert set(found["solved"]) == set(found["format"]) == {1.0}


def test_the_rows_are_made_anew_in_the_same_way(splits):
  for split, rows in splits.items():
    assert [dict(row, index=i) for i, row in enumerate(
      data.SUMS.splits(None)[split])] == rows
