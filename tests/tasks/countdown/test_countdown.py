import ast
import itertools
import json
import operator
import random
from fractions import Fraction

import hypothesis
import pytest
from hypothesis import strategies as st
from timing import timed

from dlrl import strict
from dlrl import tasks
from dlrl.models import char_tokenizer
from dlrl.tasks.countdown import data as countdown_data
from dlrl.tasks.countdown import grading as countdown

DIGITS = tasks.TASKS["countdown_digits"]
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub,
             ast.Mult: operator.mul, ast.Div: operator.truediv}


def by_python(expression):
  """The value by Python's grammar, in fractions."""
  def of(node):
    if isinstance(node, ast.Constant):
      return Fraction(node.value)
    return OPERATORS[type(node.op)](of(node.left), of(node.right))

  try:
    return of(ast.parse(expression, mode="eval").body)
  except ZeroDivisionError:
    return None


def value(expression):
  parts = countdown.tokens(expression)
  return None if parts is None else countdown.value(parts)


def solved(problem, completion):
  """By the reward, as rollouts are scored."""
  numbers, target = countdown.problem_of(problem)
  (reward,) = countdown.solved_reward(
    ["?"], [completion], numbers=[numbers], target=[target])
  return {1.0: True, 0.0: False}[reward]


def measured(problem, *completions):
  numbers, target = countdown.problem_of(problem)
  count = len(completions)
  return countdown.metrics(
    ["?"] * count, completions, numbers=[numbers] * count,
    target=[target] * count, difficulty=[1] * count)


numbers = st.integers(0, 99).map(str)
expressions = st.recursive(
  numbers,
  lambda inner: st.one_of(
    st.tuples(inner, st.sampled_from("+-*/"), inner).map("".join),
    st.tuples(inner, st.sampled_from([" + ", "- "]), inner).map("".join),
    inner.map("({})".format)), max_leaves=12)


@hypothesis.settings(max_examples=500, deadline=None)
@hypothesis.given(expressions)
def test_the_parser_agrees_with_pythons(expression):
  hypothesis.assume(len(expression) <= 200)
  assert value(expression) == by_python(expression)


@pytest.mark.parametrize("expression", [
  "2*4-3", "2 * 4 - 3", "(2*4)-3", "((2)*(4))-(3)", " 4*2-3 ", "4*2-3\n",
  "<answer>2*4\n-3</answer>", "2\t*4\r\n-3", "<answer>`2*4-3`</answer>",
  "<answer>$2*4-3$</answer>", "<answer>**2*4-3**</answer>",
  "<answer> 2*4-3 </answer>", "2*3 is 6, \\boxed{2*4-3}",
  "<answer>2*3-4</answer> no, <answer>\n2*4-3\n</answer>"])
def test_what_solves(expression):
  assert solved("2,3,4=5", expression)


def test_fractions_on_the_way_are_exact():
  assert solved("3,3,8,8=24", "8/(3-8/3)")
  assert not solved("1,3,3=1", "1/3*3+0")


@pytest.mark.parametrize("prompt, completion", [
  ("2,3,1=9", "2**3+1"),  # passes published graders, which eval it
  ("7,2,1=4", "7//2+1"),
  ("1,2,3=4", "1.2+3"),
  ("1,2,3=2", "-1+3*2-3"),
  ("3,1,2=2", "-1+3"),  # a sign, and a number left out
  ("5,3,2=4", "-3+5+2"),  # a sign
  ("5,3,2=4", "5+-3+2"),
  ("5,3,2=4", "5-3+2=4"),
  ("5,3,2=4", "<answer>5-3+2</answer> or <answer>5+3+2</answer>"),
  ("5,3,2=4", "It is 5-3+2"),
  ("5,3,2=4", "5-3+2;"),
  ("5,3,2=4", "5-03+2"),
  ("5,3,2=4", "5-3+2)"),
  ("5,3,2=4", "(5-3+2"),
  ("5,3,2=4", "5-3+2+0"),
  ("5,3,2=4", "5-3+2+2-2"),
  ("5,5,4=4", "4"),
  ("5,3,2=4", "5 3 2"),
  ("5,3,2=4", "<answer>`5-3+2` or `5+3-2`</answer>"),
  ("53,2=55", "<answer>5\n3+2</answer>"),
  ("5,3,2=4", "5-3\u2028+2"),
  ("5,3,2=4", "()5-3+2"),
  ("5,3,2=4", "5(-3+2)"),
  ("5,3,2=4", "4"),
  ("5,3,2=4", ""),
  ("5,3,2=4", "?-3+2"),
  ("5,3,2=4", "\u0665-\u0663+\u0662"),  # digits of another script
  ("5,3,2=4", "5-3+²"),
  ("5,5,10=1", "10/(5-5)"),
  ("5,3,2=4", "9**9**9**9"),
  ("5,3,2=4", "((((((((((5-3+2"),
])
def test_what_does_not_solve(prompt, completion):
  assert not solved(prompt, completion)


@hypothesis.settings(max_examples=1000, deadline=None)
@hypothesis.given(st.one_of(
  st.text(max_size=300),
  st.text("0123456789+-*/() .", max_size=300),
  st.text("523+-*/()", max_size=12),
  st.integers(1, 10**5).map(lambda n: "9" * n),
  st.integers(1, 10**5).map(lambda n: "(" * n + "5-3+2" + ")" * n)))
def test_no_text_raises_takes_long_or_is_paid_without_being_an_answer(text):
  paid, scores = timed(0.05, lambda: (
    solved("5,3,2=4", text), measured("5,3,2=4", text)))
  reward = [float(paid)]
  assert scores["solved"] == reward
  assert scores["format"] >= reward
  if scores["format"] == [1.0]:
    assert reward == [float(by_python(text.strip()) == 4)]
    assert sorted(c for c in text if c.isdigit()) == ["2", "3", "5"]


def test_of_all_short_texts_those_that_python_agrees_with_solve():
  prompt, right = "1,2,3=7", set()
  for text in itertools.product("123+*-", repeat=5):
    text = "".join(text)
    if solved(prompt, text):
      right.add(text)
  assert right == {"1+2*3", "1+3*2", "2*3+1", "3*2+1"}


def test_format_is_an_expression_of_the_numbers_of_any_value():
  scores = measured("5,3,2=4", "5+3+2", "5-3", "5/(3-3)", "x")
  assert scores["format"] == [1.0, 0.0, 0.0, 0.0]
  assert scores["solved"] == [0.0] * 4


def test_what_plus_and_minus_can_solve_is_counted_whatever_is_answered():
  scores = countdown.metrics(
    ["?"] * 3, ["5-3+2", "x", ""], numbers=[[5, 3, 2]] * 3, target=[4, 4, 13],
    difficulty=[1, 1, 2])
  assert scores["easy"] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("prompt", [
  "", "5,3,2", "5=5", "5,3,2=", "5,3,2=4 ", "5, 3,2=4", "5,3,2=-4", "0,3,2=4",
  "05,3,2=4"])
def test_a_text_that_is_no_problem_raises(prompt):
  with pytest.raises(ValueError, match="must be numbers and the target"):
    countdown.problem_of(prompt)


def test_columns_of_unequal_length_raise():
  with pytest.raises(ValueError, match="shorter"):
    countdown.solved_reward([], [], numbers=[[5, 3, 2]], target=[4])


def test_problems_are_read_as_they_were_written():
  text = countdown.problem((30, 100, 93), 7, width=3)
  assert text == "30,100,93=007"
  assert countdown.problem_of(text) == ([30, 100, 93], 7)


def test_the_template_has_room_for_every_expression():
  for numbers, longest in (
    ([5, 3, 2], "(5-3)+2"), ([12, 3, 4, 5], "((12/3)-4)+5")):
    (room,) = countdown.template({"numbers": numbers})
    assert room == len(longest)


@pytest.fixture(scope="module")
def rows(sudoku_dir):
  return {split: [*DIGITS.load(sudoku_dir, split, (1, 2))]
          for split in ("train", "test")}


def asked(row):
  return tasks.TASKS["countdown_digits"].prompts["bare"].question(row)


def test_digits_have_no_validation_split(sudoku_dir):
  with pytest.raises(strict.ConfigError, match="no validation rows, only"):
    DIGITS.load(sudoku_dir, "validation", (1, 2))


def test_all_problems_of_digits_are_there_once_and_their_solutions_solve(rows):
  both = rows["train"] + rows["test"]
  prompts = {asked(row) for row in both}
  assert len(prompts) == len(both)
  for row in both:
    assert solved(asked(row), row["solution"])
    assert len(asked(row)) == 8
    char_tokenizer.CharTokenizer().encode(asked(row))
    assert row["difficulty"] == (2 if set("*/") & set(row["solution"]) else 1)
  # Every target of a triple, by another enumeration, in every order.
  for triple in [(1, 2, 3), (7, 7, 2), (9, 9, 9)]:
    targets = set()
    for a, b, c in itertools.permutations(triple):
      for p, q in itertools.product("+-*/", repeat=2):
        for text in (f"({a}{p}{b}){q}{c}", f"{a}{p}({b}{q}{c})"):
          targets.add(by_python(text))
    targets = {t for t in targets if t in range(1, 100)}
    orders = set(itertools.permutations(triple))
    assert {countdown.problem(order, int(t), width=2)
            for order in orders for t in targets} == {
      p for p in prompts
      if sorted(countdown.problem_of(p)[0]) == sorted(triple)}


def test_difficulty_1_is_all_that_plus_and_minus_can_do(rows):
  for row in random.Random(0).sample(rows["train"], 300):
    (a, b, c), target = row["numbers"], row["target"]
    signs = {abs(a + p * b + q * c) for p in (1, -1) for q in (1, -1)}
    # All negative is the one pattern without a first number.
    reachable = {x for x in signs} & {target}
    assert (row["difficulty"] == 1) == bool(reachable)


def test_train_and_test_share_no_problem_in_any_order(rows):
  def problems(split):
    return {(tuple(sorted(row["numbers"])), row["target"])
            for row in rows[split]}

  assert not problems("train") & problems("test")
  share = len(problems("test")) / len(problems("train") | problems("test"))
  assert share == pytest.approx(1 / countdown_data.TESTS, abs=1e-3)


def test_difficulties_select_and_unknown_ones_are_an_error(rows, sudoku_dir):
  hard = DIGITS.load(sudoku_dir, "test", (2, 5))
  assert [*hard] == [row for row in rows["test"] if row["difficulty"] == 2]
  with pytest.raises(strict.ConfigError, match=r"overlaps 1\.\.2"):
    DIGITS.load(sudoku_dir, "test", (3, 5), field="x")


@pytest.mark.slow
def test_solutions_solve_problems_with_numbers_up_to_99():
  rows = countdown_data._drawn()[:300]
  for row in rows:
    assert solved(row["puzzle"], row["solution"])
    hard = bool(set("*/") & set(row["solution"]))
    assert row["difficulty"] == 1 + hard
  assert 75 < sum(row["difficulty"] == 2 for row in rows) < 225


@pytest.mark.slow
def test_rows_with_numbers_up_to_99_are_the_pinned_ones():
  dataset = countdown_data.COUNTDOWN3
  rows = dataset.splits(None)
  for split, found in rows.items():
    assert dataset.digest(found) == dataset.sha256[split]
    assert len({row["puzzle"] for row in found}) == len(found) > 2000
  triples = {split: {tuple(sorted(countdown.problem_of(row["puzzle"])[0]))
                     for row in found} for split, found in rows.items()}
  for one, other in itertools.combinations(tasks.SPLITS, 2):
    assert not triples[one] & triples[other]


def test_all_of_them_are_tasks():
  for name in ("countdown", "countdown4", "countdown5", "countdown_digits"):
    assert tasks.TASKS[name].difficulties == (1, 2)


@pytest.mark.shared_data
def test_published_gold_solutions_solve(shared):
  """Dream's are lists of steps; each is an expression of its own."""
  path = shared / "data" / "countdown" / "dream_cd3_test.jsonl"
  for line in path.read_text().splitlines():
    row = json.loads(line)
    *given, target = map(int, row["input"].split(","))
    first, second = (step.split("=") for step in row["output"].split(","))
    merged = second[0].replace(first[1], f"({first[0]})", 1)
    right = solved(countdown.problem(given, target), merged)
    # The intermediate value can equal a number given: then either place.
    other = f"({first[0]})".join(second[0].rsplit(first[1], 1))
    assert right or solved(countdown.problem(given, target), other)


@pytest.mark.shared_data
def test_all_published_problems_can_be_solved(shared):
  path = shared / "data" / "countdown" / "d1_countdown_cd3_test.jsonl"
  plain = []
  for line in path.read_text().splitlines():
    row = json.loads(line)
    given = tuple(map(int, row["input"].split(",")))
    solution = countdown_data.solutions(given)[int(row["output"])]
    plain.append(not set("*/") & set(solution))
  assert (len(plain), sum(plain)) == (256, 229)
