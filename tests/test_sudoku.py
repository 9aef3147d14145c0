import collections
import csv
import json

import hypothesis
import pytest
from hypothesis import strategies as st

from dlrl import tasks
from dlrl.tasks import sudoku

AMBIGUOUS = "1200340021004300"
PUZZLE = "0034341221434321"
PROMPT = sudoku.prompt_of(PUZZLE)
GRID = "1234341221434321"


def solve(puzzle):
  """All solutions, by backtracking over the first blank; knows no list."""
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


def test_the_grids_are_the_288_that_backtracking_finds():
  assert len(sudoku.grids()) == 288
  assert list(sudoku.grids()) == solve("0" * 16)


def test_every_grid_solves_itself_and_only_itself():
  grids = sudoku.grids()
  for grid in grids:
    assert sudoku.solved_reward([sudoku.prompt_of(grid)] * 288, grids) == [
        float(grid == other) for other in grids]


def test_any_valid_grid_solves_a_blank_puzzle():
  blank = [sudoku.prompt_of("0" * 16)] * 288
  assert sudoku.solved_reward(blank, sudoku.grids()) == [1.0] * 288
  assert sudoku.units_reward(blank, sudoku.grids()) == [1.0] * 288


def test_an_alternative_valid_grid_counts():
  first, second, *_ = solve(AMBIGUOUS)
  prompts = [sudoku.prompt_of(AMBIGUOUS)] * 2
  got = sudoku.metrics(prompts, [first, second], solution=[first] * 2)
  assert got["solved"] == [1.0, 1.0]
  assert got["cells"][0] == 1.0
  assert got["cells"][1] < 1.0
  assert sudoku.units_reward(prompts, [first, second]) == [1.0, 1.0]


def test_an_overwritten_clue_is_not_solved_though_all_cells_are_right():
  wrong = GRID[:-1] + "2"
  got = sudoku.metrics([PROMPT], [wrong], solution=[GRID])
  assert got == {"solved": [0.0], "cells": [1.0]}


def test_a_valid_grid_that_ignores_the_clues_is_not_solved():
  for grid in sudoku.grids():
    if grid != GRID:
      assert sudoku.solved_reward([PROMPT], [grid]) == [0.0]
      assert 0.5 <= sudoku.units_reward([PROMPT], [grid])[0] < 1.0


@pytest.mark.parametrize("digit", "1234")
def test_a_constant_answer_never_solves(digit):
  answer = [digit * 16]
  for puzzle in ("0" * 16, PUZZLE, AMBIGUOUS, digit + "0" * 15):
    assert sudoku.solved_reward([sudoku.prompt_of(puzzle)], answer) == [0.0]
    assert sudoku.units_reward([sudoku.prompt_of(puzzle)], answer)[0] <= 0.5


def test_repeating_the_puzzle_scores_zero():
  got = sudoku.metrics([PROMPT], [PUZZLE], solution=[GRID])
  assert got == {"solved": [0.0], "cells": [0.0]}
  assert sudoku.units_reward([PROMPT], [PUZZLE]) == [0.0]


def test_units_reward_of_hand_counted_grids():
  # One wrong blank breaks its row, its column and its box: 9 of 12 are left.
  wrong = "2" + GRID[1:]
  assert sudoku.units_reward([PROMPT], [wrong]) == [(1 + 9 / 12) / 2]
  # One wrong clue of 14 does the same.
  wrong = GRID[:-1] + "2"
  assert sudoku.units_reward([PROMPT], [wrong]) == [(13 / 14 + 9 / 12) / 2]


def test_cells_counts_blanks_only():
  assert sudoku.cells(PUZZLE, "1334341221434321", GRID) == 0.5
  assert sudoku.cells(GRID, GRID, GRID) == 1.0
  assert sudoku.cells(GRID, "2" + GRID[1:], GRID) == 0.0


def test_rewards_do_not_read_the_solution():
  for reward in tasks.TASKS["sudoku"].rewards.values():
    lie = reward([PROMPT], [GRID], solution=["4" * 16], difficulty=[2])
    assert lie == reward([PROMPT], [GRID]) == [1.0]


@pytest.mark.parametrize("answer", [
    "", " ", GRID + " ", " " + GRID, GRID + "\n", GRID[:-1], GRID + "1",
    GRID[:-1] + "?", GRID[:-1] + "0", GRID[:-1] + "5", " ".join(GRID),
    GRID.replace("1", "\u00b9"),  # superscript
    GRID.replace("1", "\u0661"),  # Arabic-Indic
    GRID.replace("1", "\uff11"),  # full width
    GRID.replace("1", "\U0001d7cf"),  # mathematical bold
    GRID[:8] + "\u200b" + GRID[8:], GRID[:-1] + "1\u0301", "\x00" * 16,
    "\ud800" * 16, f"<answer>{GRID}</answer>", "9" * 5000,
])
def test_what_is_not_exactly_sixteen_digits_scores_zero(answer):
  assert sudoku.solved_reward([PROMPT], [answer]) == [0.0]
  assert sudoku.units_reward([PROMPT], [answer]) == [0.0]
  got = sudoku.metrics([PROMPT], [answer], solution=[GRID])
  assert got == {"solved": [0.0], "cells": [0.0]}


LEGAL = set(solve("0" * 16))
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()))
NEARLY = st.text("01234\u00b2\u0663 ", min_size=14, max_size=17)


@hypothesis.settings(deadline=None, max_examples=300, database=None)
@hypothesis.given(st.text("01234", min_size=16, max_size=16),
                  ANY_TEXT | NEARLY | st.sampled_from(sudoku.grids()))
def test_graders_never_raise_and_agree_with_the_solver(puzzle, answer):
  right = answer in LEGAL and all(
      p in ("0", a) for p, a in zip(puzzle, answer, strict=True))
  prompt = sudoku.prompt_of(puzzle)
  assert sudoku.solved_reward([prompt], [answer]) == [float(right)]
  (dense,) = sudoku.units_reward([prompt], [answer])
  assert 0.0 <= dense <= 1.0
  assert (dense == 1.0) == right
  got = sudoku.metrics([prompt], [answer], solution=[GRID])
  assert got["solved"] == [float(right)]
  assert 0.0 <= got["cells"][0] <= 1.0


def test_a_prompt_that_is_no_puzzle_or_columns_of_unequal_length_raise():
  with pytest.raises(ValueError, match="not a puzzle"):
    sudoku.solved_reward(["12"], [GRID])
  with pytest.raises(ValueError):
    sudoku.solved_reward([PROMPT], [GRID, GRID])


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
  prompts = [sudoku.prompt_of(puzzle) for puzzle in puzzles]
  assert len(rows) == count
  assert sudoku.solved_reward(prompts, gold) == [1.0] * count
  got = sudoku.metrics(prompts, gold, solution=gold)
  assert got == {"solved": [1.0] * count, "cells": [1.0] * count}
  assert set(sudoku.solved_reward(prompts, ["1234" * 4] * count)) == {0.0}


@pytest.mark.shared_data
def test_published_puzzles_have_as_many_solutions_as_published(shared):
  rows = csv_rows(shared / "data/sudoku4x4/d1_4x4_test_sudoku.csv")
  found = collections.Counter(
      sum(sudoku.solved(puzzle, grid) for grid in sudoku.grids())
      for puzzle, _ in rows)
  assert found == {1: 376, 2: 115, 3: 8, 4: 1}


@pytest.mark.shared_data
def test_real_generations_with_prose_are_not_solutions(shared):
  path = shared / "data/llada_outputs/sudoku_len256_steps128.jsonl"
  texts = [json.loads(line)["generation"] for line in path.open()]
  assert set(sudoku.units_reward([PROMPT] * len(texts), texts)) == {0.0}
