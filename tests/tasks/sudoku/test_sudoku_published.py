"""The puzzles of published tables, from their public files."""

import json
import pathlib
import re

import pytest

from dlrl.tasks import task as task_lib
from dlrl.tasks.sudoku import grading as sudoku
from dlrl.tasks.sudoku import published_data

pytestmark = pytest.mark.shared_data
EVERY = (0, 99)


@pytest.fixture(scope="module")
def data_dir(shared, tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  for dataset in (published_data.SUDOKU_D1, published_data.SUDOKU_SPG):
    name = dataset.files["test"].name
    placed = root / "downloads" / "manual" / name
    placed.parent.mkdir(parents=True, exist_ok=True)
    source = shared / "data" / "sudoku4x4" / pathlib.Path(name).name
    placed.write_bytes(source.read_bytes())
  return str(root)


def test_d1s_sudokus_are_those_that_its_outputs_answer(data_dir, shared):
  rows = published_data.SUDOKU_D1.load(data_dir, "test", EVERY)
  path = shared / "data/llada_outputs/sudoku_len256_steps128.jsonl"
  outputs = [json.loads(line) for line in path.read_text().splitlines()]
  asked = {re.search("[0-4]{16}", row["question"])[0]: row["ground_truth"]
           for row in outputs}
  assert {row["puzzle"]: row["solution"] for row in rows} == asked


def test_spgs_sudokus_have_one_solution_each(data_dir):
  rows = published_data.SUDOKU_SPG.load(data_dir, "test", EVERY)
  assert len(rows) == 256
  for row in rows:
    fits = [grid for grid in sudoku.grids() if all(
      a in ("0", b) for a, b in zip(row["puzzle"], grid, strict=True))]
    assert fits == [row["solution"]]


def test_there_is_nothing_to_train_on(data_dir):
  for split in task_lib.SPLITS[:2]:
    with pytest.raises(ValueError, match=f"has no {split} rows"):
      published_data.SUDOKU_D1.load(data_dir, split, EVERY)
