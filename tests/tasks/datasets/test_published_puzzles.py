import json
import pathlib
import re

import pytest

from dlrl.tasks import task as task_lib
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.datasets import published_puzzles
from dlrl.tasks.sudoku import grading as sudoku

pytestmark = pytest.mark.shared_data
EVERY = (0, 99)


@pytest.fixture(scope="module")
def data_dir(shared, tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  for builder, folder in (
      (published_puzzles.SudokuD1, "sudoku4x4"),
      (published_puzzles.SudokuSpg, "sudoku4x4"),
      (published_puzzles.CountdownD1, "countdown")):
    name = builder.FILES["test"].name
    placed = root / "downloads" / "manual" / name
    placed.parent.mkdir(parents=True, exist_ok=True)
    source = shared / "data" / folder / pathlib.Path(name).name
    placed.write_bytes(source.read_bytes())
  return str(root)


def questions(shared, task):
  path = shared / "data/llada_outputs" / f"{task}_len256_steps128.jsonl"
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_d1s_sudokus_are_those_that_its_outputs_answer(data_dir, shared):
  rows = published_puzzles.load_sudoku_d1(data_dir, "test", EVERY)
  asked = {re.search("[0-4]{16}", row["question"])[0]: row["ground_truth"]
           for row in questions(shared, "sudoku")}
  assert {row["puzzle"]: row["solution"] for row in rows} == asked


def test_d1s_countdowns_are_those_that_its_outputs_answer(data_dir, shared):
  rows = published_puzzles.load_countdown_d1(data_dir, "test", EVERY)
  assert sorted([list(row["numbers"]), row["target"]] for row in rows) == (
    sorted(row["ground_truth"] for row in questions(shared, "countdown")))
  right = countdown.metrics(
    [""] * len(rows), [row["solution"] for row in rows],
    **task_lib.columns(rows))
  assert right["solved"] == [1.0] * 256
  # Counted by others: + and - are enough for 229.
  assert sum(row["difficulty"] == 1 for row in rows) == 229


def test_spgs_sudokus_have_one_solution_each(data_dir):
  rows = published_puzzles.load_sudoku_spg(data_dir, "test", EVERY)
  assert len(rows) == 256
  for row in rows:
    fits = [grid for grid in sudoku.grids() if all(
      a in ("0", b) for a, b in zip(row["puzzle"], grid, strict=True))]
    assert fits == [row["solution"]]


def test_there_is_nothing_to_train_on(data_dir):
  for split in task_lib.SPLITS[:2]:
    with pytest.raises(ValueError, match=f"has no {split} rows"):
      published_puzzles.load_sudoku_d1(data_dir, split, EVERY)
