"""Large data take little more memory than their places or their texts."""

import json
import os
import tracemalloc

import pytest

from dlrl.tasks.datasets import rows as rows_lib
from dlrl.tasks.user_files import files

N = 30_000


@pytest.fixture
def traced():
  tracemalloc.start()
  yield lambda: tracemalloc.get_traced_memory()
  tracemalloc.stop()


def puzzles():
  """Rows like those of 4x4 Sudoku, in another order than their rank."""
  return ({"puzzle": f"{i * 7919 % N:016}", "solution": f"{i:016}",
           "difficulty": i % 5} for i in range(N))


@pytest.mark.slow
def test_rows_of_a_dataset_take_the_memory_of_their_text(traced):
  rows = rows_lib.Rows(puzzles(), lambda row: row["puzzle"])
  compact, _ = traced()
  as_objects = list(puzzles())
  assert compact < 120 * N < 250 * N < traced()[0] - compact
  assert list(rows) == sorted(as_objects, key=lambda row: row["puzzle"])
  assert rows.difficulty.tolist() == [row["difficulty"] for row in rows]
  assert rows[-1] == rows[N - 1] == next(iter(rows[N - 1:]))


@pytest.fixture
def large(tmp_path):
  """A file of 30 MB."""
  path = tmp_path / "large.jsonl"
  with open(path, "w") as file:
    for i in range(N):
      file.write(json.dumps({"prompt": f"{i}?", "x": "x" * 1000}) + "\n")
  return str(path)


def test_rows_of_files_take_the_memory_of_their_places(large, traced):
  rows = files.load(large, bad_rows="error", field="task.train_files")
  held, peak = traced()
  assert len(rows) == N
  assert held < 50 * N  # four numbers
  assert peak < 100 * N
  assert rows[N - 1]["prompt"] == f"{N - 1}?"


def test_files_are_read_once_for_all_uses(large):
  def load():
    return files.load(large, bad_rows="error", field="task.train_files")

  first = load()
  assert load() is first
  both = files.Files(train=large)("", "train", files.DIFFICULTIES)
  assert both.places is first.places  # nor are all places copied
  with open(large, "a") as file:
    file.write('{"prompt": "more"}\n')
  os.utime(large, (0, 0))  # even if the time went back
  assert load()[N]["prompt"] == "more"
