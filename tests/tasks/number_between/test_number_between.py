"""A number between two others: the data, their prompts and their reward."""

import itertools

import pytest

from configs import bgpo
from dlrl import tasks
from dlrl.models import char_tokenizer
from dlrl.tasks.number_between import data
from dlrl.tasks.number_between import grading

TASK = tasks.TASKS["number_between"]
ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("thir", "four", "fif", "six", "seven", "eigh", "nine")
TENS = ("twen", "thir", "for", "fif", "six", "seven", "eigh", "nine")
# Every word there is, so that "fourty" is none.
VALUES = {"ten": 10, "eleven": 11, "twelve": 12} | {
  word: value for value, word in enumerate(ONES, 1)} | {
  f"{stem}teen": value for value, stem in enumerate(TEENS, 13)} | {
  f"{stem}ty": 10 * value for value, stem in enumerate(TENS, 2)}


def value(text):
  tens, _, ones = text.partition("-")
  if not ones:
    return VALUES[tens]
  assert VALUES[tens] >= 20 and 1 <= VALUES[ones] <= 9
  return VALUES[tens] + VALUES[ones]


def ends(row):
  between, low, and_, high = row["puzzle"].split(" ")
  assert (between, and_) == ("between", "and")
  assert low == str(int(low)) and high == str(int(high))
  return int(low), int(high)


@pytest.fixture(scope="module")
def splits(sudoku_dir):
  return {split: [*TASK.load(sudoku_dir, split, TASK.difficulties)]
          for split in tasks.SPLITS}


def test_every_solution_is_between_the_two(splits):
  for row in itertools.chain(*splits.values()):
    low, high = ends(row)
    assert low < value(row["solution"]) < high


def test_the_difficulty_says_how_far_apart_they_are(splits):
  for row in itertools.chain(*splits.values()):
    low, high = ends(row)
    assert row["difficulty"] == (
      3 if high < low + 10 else 2 if high < low + 20 else 1)


def test_splits_share_no_question_and_have_all(splits):
  pairs = {split: [*map(ends, rows)] for split, rows in splits.items()}
  asked = list(itertools.chain(*pairs.values()))
  assert len(asked) == len(set(asked))
  assert {*asked} == {
    (low, low + apart) for low in range(1, 100) for apart in range(4, 61)
    if low + apart < 100}
  sizes = {split: len(rows) for split, rows in splits.items()}
  assert sizes == {"train": 2292, "validation": 763, "test": 764}
  for rows in splits.values():
    assert {row["difficulty"] for row in rows} == {1, 2, 3}


def test_solutions_are_anywhere_between_the_two(splits):
  # Of n numbers between, the solution is the first and the last 1/n times.
  first, last, expected = 0, 0, 0.0
  for row in itertools.chain(*splits.values()):
    low, high = ends(row)
    first += value(row["solution"]) == low + 1
    last += value(row["solution"]) == high - 1
    expected += 1 / (high - low - 1)
  assert first == pytest.approx(expected, rel=0.2)
  assert last == pytest.approx(expected, rel=0.2)


def test_questions_and_answers_fit_the_preset(splits):
  cfg, tokenizer = bgpo.get_config("text"), char_tokenizer.ByteTokenizer()
  assert cfg.task.name == "number_between"
  prompt = TASK.prompts["bare"]
  for row in itertools.chain(*splits.values()):
    assert len(tokenizer.prompt(prompt.question(row))) <= cfg.task.prompt_length
    size = len(tokenizer.encode(prompt.answer(row)))
    assert size <= min(cfg.sft.gen_length, cfg.rollout.sampler.gen_length)
  assert prompt.question(
    {"puzzle": "between 42 and 51"}) == "What is between 42 and 51?"


@pytest.mark.parametrize(("completion", "solved", "form"), [
  ("forty-three", 1, 1), ("fifty", 1, 1), (" forty-six\n", 1, 1),
  ("so <answer>forty-six</answer>", 1, 1),
  ("forty-two", 0, 1), ("fifty-one", 0, 1), ("zero", 0, 1),
  ("ninety-nine", 0, 1), ("Forty-six", 0, 0), ("forty six", 0, 0),
  ("forty-six forty-six", 0, 0), ("46", 0, 0), ("forty-\ufffdsix", 0, 0),
  ("forty-ten", 0, 0), ("hundred", 0, 0), ("", 0, 0),
  ("\x1b[2Jforty-six", 0, 0), ("forty\u2010six", 0, 0)])
def test_only_names_of_numbers_between_the_two_are_right(
    completion, solved, form):
  columns = {"puzzle": ["between 42 and 51"], "solution": ["forty-four"]}
  assert grading.solved_reward(["?"], [completion], **columns) == [solved]
  assert grading.metrics(["?"], [completion], **columns) == {
    "solved": [solved], "format": [form]}


def test_each_completion_is_graded_by_its_own_question():
  puzzles = ["between 42 and 51", "between 3 and 20"]
  assert grading.solved_reward(
    ["?"] * 2, ["fifty", "fifty"], puzzle=puzzles) == [1, 0]
  with pytest.raises(ValueError, match="zip"):
    grading.solved_reward(["?"] * 2, ["fifty"] * 2, puzzle=puzzles[:1])
  with pytest.raises(ValueError, match="like 'between 42 and 51'"):
    grading.solved_reward(["?"], ["fifty"], puzzle=["47 plus 28"])


def test_the_solutions_have_the_reward(splits):
  for rows in splits.values():
    columns = tasks.columns(rows)
    found = grading.metrics(["?"] * len(rows), columns["solution"], **columns)
    assert set(found["solved"]) == set(found["format"]) == {1.0}


def test_the_rows_are_made_anew_in_the_same_way(splits):
  for split, rows in splits.items():
    assert [dict(row, index=i) for i, row in enumerate(
      data.BETWEEN.splits(None)[split])] == rows
