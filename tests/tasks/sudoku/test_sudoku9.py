"""9x9 puzzles: how they are made, and the rules that all of them keep."""

import collections

import numpy as np
import pytest

from dlrl import tasks
from dlrl.tasks.sudoku import data_9x9
from dlrl.tasks.sudoku import grading as sudoku
from dlrl.tasks.sudoku import search_9x9

WORDS = np.random.PCG64(1)
FILLED = search_9x9.grid(WORDS)
CELLS = search_9x9.blanks(
  FILLED, np.argsort(WORDS.random_raw(81)).tolist())


def exact_cover(puzzle, limit=2):
  """Number of solutions up to a limit, by Knuth's algorithm X on dicts."""
  def constraints(row, column, digit):
    return [("cell", row, column), ("row", row, digit),
            ("column", column, digit),
            ("box", row // 3 * 3 + column // 3, digit)]

  choices = {(r, c, d): constraints(r, c, d) for r in range(9)
             for c in range(9) for d in "123456789"
             if puzzle[9 * r + c] in ("0", d)}
  columns = collections.defaultdict(set)
  for choice, covered in choices.items():
    for constraint in covered:
      columns[constraint].add(choice)

  def count(left, limit):
    if not left:
      return 1
    found = 0
    for choice in list(left[min(left, key=lambda k: len(left[k]))]):
      gone = {other for c in choices[choice] for other in left[c]}
      found += count({k: v - gone for k, v in left.items()
                      if k not in choices[choice]}, limit - found)
      if found >= limit:
        break
    return found

  return count(dict(columns), limit)


def text(filled, blank=()):
  return "".join("0" if i in set(blank) else str(d + 1)
                 for i, d in enumerate(filled))


def test_a_full_grid_keeps_the_rules_and_no_two_are_alike():
  words = np.random.PCG64(2)
  grids = {text(search_9x9.grid(words)) for _ in range(20)}
  assert len(grids) == 20
  assert {sudoku.units_valid(grid) for grid in grids} == {1.0}


def test_what_is_left_has_one_solution_and_any_more_blanks_have_several():
  assert len(CELLS) == len(set(CELLS)) >= 50
  assert exact_cover(text(FILLED, CELLS)) == 1
  clues = [c for c in range(81) if c not in CELLS]
  for cell in clues[::5]:
    assert exact_cover(text(FILLED, [*CELLS, cell])) == 2


@pytest.fixture(scope="module")
def splits(sudoku_dir):
  task = tasks.TASKS["sudoku9"]
  return {split: task.load(sudoku_dir, split, task.difficulties)
          for split in tasks.SPLITS}


def test_every_puzzle_is_of_its_solution_and_has_its_blanks(splits):
  for split, rows in splits.items():
    columns = tasks.columns(rows)
    assert set(sudoku.solved_reward(
      [], columns["solution"], **columns)) == {1.0}
    assert columns["index"] == list(range(len(rows)))
    assert all(row["puzzle"].count("0") == row["difficulty"] for row in rows)
    per_difficulty = collections.Counter(columns["difficulty"])
    assert per_difficulty == dict.fromkeys(
      range(20, 56, 5), data_9x9.PER_DIFFICULTY[split])
    assert len(set(columns["puzzle"])) == len(rows)


def test_puzzles_have_one_solution(splits):
  hardest = [rows[-i] for rows in splits.values() for i in (1, 90)]
  assert [exact_cover(row["puzzle"]) for row in hardest] == [1] * 6


def kinds(rows):
  """The set of the solutions' invariants under all symmetries of the rules.

  Two rows define a permutation of the digits. Its cycle lengths, over all pairs
  of rows and all pairs of columns, do not change.
  """
  grids = np.array([list(map(int, row["solution"])) for row in rows]) - 1
  by_rows = grids.reshape(-1, 9, 9)
  sides = []
  for lines in (by_rows, by_rows.transpose(0, 2, 1)):
    cycles = []
    for a in range(9):
      for b in range(a):
        step = np.take_along_axis(
          lines[:, b], np.argsort(lines[:, a], 1), 1)  # of digit to digit
        at, length = step.copy(), np.zeros_like(step)
        for i in range(1, 10):
          length[(length == 0) & (at == np.arange(9))] = i
          at = np.take_along_axis(step, at, 1)
        cycles.append(np.sort(length, 1) @ 10 ** np.arange(9))
    sides.append(np.sort(np.array(cycles), 0).T.tolist())
  return {tuple(sorted(map(tuple, pair)))
          for pair in zip(*sides, strict=True)}


def test_no_solution_of_one_split_is_one_of_another_under_any_exchange(splits):
  train, validation, test = (kinds(splits[split]) for split in tasks.SPLITS)
  assert not train & test
  assert not train & validation
  assert not validation & test
  # Many solutions come from one grid.
  assert (len(train), len(validation), len(test)) == (160, 40, 40)


def test_rows_are_the_pinned_ones(splits):
  for split, rows in splits.items():
    assert data_9x9.SUDOKU9X9.digest(rows) == data_9x9.SUDOKU9X9.sha256[split]
