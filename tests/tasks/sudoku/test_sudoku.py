import collections
import csv
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from dlrl import tasks
from dlrl.tasks.sudoku import grading as sudoku

AMBIGUOUS = "1200340021004300"
PUZZLE = "0034341221434321"
GRID = "1234341221434321"


def rewarded(reward, puzzle, *answers):
  """Rewards of several answers to one puzzle."""
  return reward(["?"] * len(answers), answers, puzzle=[puzzle] * len(answers))


def measured(puzzle, *answers, solution=GRID):
  count = len(answers)
  return sudoku.metrics(["?"] * count, answers, puzzle=[puzzle] * count,
                        solution=[solution] * count)


def solve(puzzle):
  """All solutions, by backtracking over the first blank."""
  cell = puzzle.find("0")
  if cell < 0:
    return [puzzle]
  row, col = divmod(cell, 4)
  taken = set()
  for other in range(16):
    r, c = divmod(other, 4)
    if r == row or c == col or (r // 2, c // 2) == (row // 2, col // 2):
      taken.add(puzzle[other])
  return [grid for digit in "1234" if digit not in taken
          for grid in solve(puzzle[:cell] + digit + puzzle[cell + 1:])]


GRID9 = ("534678912672195348198342567859761423426853791713924856"
         "961537284287419635345286179")
PUZZLE9 = ("530070000600195000098000060800060003400803001700020006"
           "060000280000419005000080079")


def test_units_of_the_larger_grid_are_those_of_its_picture():
  # Rows, columns and boxes, computed in another way.
  units = {frozenset(c for c in range(81) if of(divmod(c, 9)) == i)
           for i in range(9) for of in (
             lambda at: at[0], lambda at: at[1],
             lambda at: at[0] // 3 * 3 + at[1] // 3)}
  assert {frozenset(unit) for unit in sudoku.UNITS[81]} == units
  assert len(sudoku.UNITS[81]) == len(units) == 27


def test_larger_grids_are_held_to_the_same_rules():
  def scores(*answers):
    return measured(PUZZLE9, *answers, solution=GRID9)

  spoilt = GRID9[:2] + "9" + GRID9[3:]  # a blank: row, column, box
  assert scores(GRID9, spoilt, "9" * 81, GRID9[:80], GRID9[:16], "x") == {
    "solved": [1, 0, 0, 0, 0, 0],
    "cells": [1, 50 / 51, pytest.approx(5 / 51), 0, 0, 0],
    "format": [1, 1, 1, 0, 0, 0]}
  assert rewarded(sudoku.units_reward, PUZZLE9, GRID9, spoilt) == [
    1, (1 + 24 / 27) / 2]
  assert sudoku.template({"puzzle": PUZZLE9})[:4] == ["5", "3", 1, 1]


def test_the_grids_are_the_288_that_backtracking_finds():
  assert len(sudoku.grids()) == 288
  assert list(sudoku.grids()) == solve("0" * 16)


def test_every_grid_solves_itself_and_only_itself():
  grids = sudoku.grids()
  for grid in grids:
    assert rewarded(sudoku.solved_reward, grid, *grids) == [
        float(grid == other) for other in grids]


def test_any_valid_grid_solves_a_blank_puzzle():
  for reward in (sudoku.solved_reward, sudoku.units_reward):
    assert rewarded(reward, "0" * 16, *sudoku.grids()) == [1.0] * 288


def test_an_alternative_valid_grid_counts():
  first, second, *_ = solve(AMBIGUOUS)
  got = measured(AMBIGUOUS, first, second, solution=first)
  assert got["solved"] == [1.0, 1.0]
  assert got["cells"][0] == 1.0
  assert got["cells"][1] < 1.0
  assert rewarded(sudoku.units_reward, AMBIGUOUS, first, second) == [1, 1]


def test_an_overwritten_clue_is_not_solved_though_all_cells_are_right():
  wrong = GRID[:-1] + "2"
  assert measured(PUZZLE, wrong) == {
    "solved": [0.0], "cells": [1.0], "format": [1.0]}


def test_a_valid_grid_that_ignores_the_clues_is_not_solved():
  for grid in sudoku.grids():
    if grid != GRID:
      assert rewarded(sudoku.solved_reward, PUZZLE, grid) == [0.0]
      assert 0.5 <= rewarded(sudoku.units_reward, PUZZLE, grid)[0] < 1.0


def test_units_pay_a_constant_grid_what_the_page_says():
  # Over all grids, a clue is kept by a quarter of them, whatever the puzzle.
  for puzzle in ("1" + "0" * 15, "1034" + "0" * 11 + "2"):
    scores = [sudoku.units_score(puzzle, grid) for grid in sudoku.grids()]
    assert sum(scores) / len(scores) == pytest.approx(0.625)
  assert sudoku.units_score("1234" + "0" * 12, "1" * 16) == 0.125


@pytest.mark.parametrize("digit", "1234")
def test_a_constant_answer_never_solves(digit):
  answer = digit * 16
  for puzzle in ("0" * 16, PUZZLE, AMBIGUOUS, digit + "0" * 15):
    assert rewarded(sudoku.solved_reward, puzzle, answer) == [0.0]
    assert rewarded(sudoku.units_reward, puzzle, answer)[0] <= 0.5


def test_repeating_the_puzzle_scores_zero():
  assert measured(PUZZLE, PUZZLE) == {
    "solved": [0.0], "cells": [0.0], "format": [0.0]}
  assert rewarded(sudoku.units_reward, PUZZLE, PUZZLE) == [0.0]


def test_units_reward_of_hand_counted_grids():
  # One wrong blank breaks its row, its column and its box: 9 of 12 are left.
  wrong = "2" + GRID[1:]
  assert rewarded(sudoku.units_reward, PUZZLE, wrong) == [(1 + 9 / 12) / 2]
  # One wrong clue of 14 does the same.
  wrong = GRID[:-1] + "2"
  assert rewarded(sudoku.units_reward, PUZZLE, wrong) == [
    (13 / 14 + 9 / 12) / 2]


def test_cells_counts_blanks_only():
  assert sudoku.cells(PUZZLE, "1334341221434321", GRID) == 0.5
  assert sudoku.cells(GRID, GRID, GRID) == 1.0
  assert sudoku.cells(GRID, "2" + GRID[1:], GRID) == 0.0


def test_rewards_do_not_read_the_solution():
  for reward in tasks.TASKS["sudoku"].rewards.values():
    lie = reward(["?"], [GRID], puzzle=[PUZZLE], solution=["4" * 16],
                 difficulty=[2])
    assert lie == rewarded(reward, PUZZLE, GRID) == [1.0]


@pytest.mark.parametrize("text", [
  GRID + " ", "\n" + GRID, f"<answer>{GRID}</answer>",
  f"1111222233334444 <answer>1</answer> so <answer>\n{GRID}\n</answer> 4",
  f"It is \\boxed{{{GRID}}}."])
def test_the_answer_that_is_stated_last_counts(text):
  assert rewarded(sudoku.solved_reward, PUZZLE, text) == [1.0]
  assert measured(PUZZLE, text) == {
    "solved": [1.0], "cells": [1.0], "format": [1.0]}


@pytest.mark.parametrize("answer", [
    "", " ", GRID[:-1], GRID + "1", f"The grid is {GRID}",
    GRID[:-1] + "?", GRID[:-1] + "0", GRID[:-1] + "5", " ".join(GRID),
    GRID.replace("1", "\u00b9"),  # superscript
    GRID.replace("1", "\u0661"),  # Arabic-Indic
    GRID.replace("1", "\uff11"),  # full width
    GRID.replace("1", "\U0001d7cf"),  # mathematical bold
    GRID[:8] + "\u200b" + GRID[8:], GRID[:-1] + "1\u0301", "\x00" * 16,
    "\ud800" * 16, f"<answer>{GRID}", f"<answer></answer>{GRID}",
    f"<answer>R1: {GRID}</answer>", "9" * 5000,
])
def test_what_is_not_exactly_sixteen_digits_scores_zero(answer):
  assert rewarded(sudoku.solved_reward, PUZZLE, answer) == [0.0]
  assert rewarded(sudoku.units_reward, PUZZLE, answer) == [0.0]
  assert measured(PUZZLE, answer) == {
    "solved": [0.0], "cells": [0.0], "format": [0.0]}


LEGAL = set(solve("0" * 16))
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
NEARLY = st.text("01234\u00b2\u0663 ", min_size=14, max_size=17)


@hypothesis.settings(deadline=None, max_examples=300, database=None)
@hypothesis.given(st.text("01234", min_size=16, max_size=16),
                  ANY_TEXT | NEARLY | st.sampled_from(sudoku.grids()))
def test_graders_never_raise_and_agree_with_the_solver(puzzle, answer):
  stated = answer.strip()
  right = stated in LEGAL and all(
      p in ("0", a) for p, a in zip(puzzle, stated, strict=True))
  assert rewarded(sudoku.solved_reward, puzzle, answer) == [float(right)]
  (dense,) = rewarded(sudoku.units_reward, puzzle, answer)
  assert 0.0 <= dense <= 1.0
  assert (dense == 1.0) == right
  got = measured(puzzle, answer)
  assert got["solved"] == [float(right)]
  assert 0.0 <= got["cells"][0] <= 1.0


def test_a_column_that_is_no_puzzle_or_columns_of_unequal_length_raise():
  with pytest.raises(ValueError, match="puzzle = '12': must be 16 digits"):
    rewarded(sudoku.solved_reward, "12", GRID)
  with pytest.raises(ValueError):
    sudoku.solved_reward(["?"] * 2, [GRID, GRID], puzzle=[PUZZLE])


def csv_rows(path, delimiter=","):
  with open(path, newline="") as lines:
    return [(row["Puzzle"], row["Solution"])
            for row in csv.DictReader(lines, delimiter=delimiter)]


@pytest.mark.shared_data
def test_the_288_grids_are_the_published_ones(shared):
  path = shared / "data/sudoku4x4/all_288_solutions_with_one_puzzle.csv"
  rows = csv_rows(path, delimiter="\t")
  assert sorted(grid for _, grid in rows) == list(sudoku.grids())


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "count"), [
    ("spg_test_sudoku_split_new.csv", 256), ("d1_4x4_test_sudoku.csv", 500)])
def test_published_gold_solutions_are_solved(shared, name, count):
  rows = csv_rows(shared / "data/sudoku4x4" / name)
  puzzles, gold = zip(*rows, strict=True)
  assert len(rows) == count
  assert sudoku.metrics(puzzles, gold, puzzle=puzzles, solution=gold) == {
    name: [1.0] * count for name in ("solved", "cells", "format")}
  assert set(sudoku.solved_reward(
    puzzles, ["1234" * 4] * count, puzzle=puzzles)) == {0.0}


@pytest.mark.shared_data
def test_published_puzzles_have_as_many_solutions_as_published(shared):
  rows = csv_rows(shared / "data/sudoku4x4/d1_4x4_test_sudoku.csv")
  found = collections.Counter(
      sum(sudoku.solved(puzzle, grid) for grid in sudoku.grids())
      for puzzle, _ in rows)
  assert found == {1: 376, 2: 115, 3: 8, 4: 1}


@pytest.mark.shared_data
def test_real_generations_solve_none_and_few_are_grids(shared):
  path = shared / "data/llada_outputs/sudoku_len256_steps128.jsonl"
  rows = [json.loads(line) for line in path.open()]
  texts = [row["generation"] for row in rows]
  got = sudoku.metrics(
    texts, texts, puzzle=[row["question"].split()[-1] for row in rows],
    solution=[row["ground_truth"] for row in rows])
  # Of 256 answers 90 have 16 digits; 85 of those still contain a 0, and one is
  # on four lines.
  assert (sum(got["solved"]), sum(got["format"])) == (0, 4)
