import collections
import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
import tempfile

import pytest
import runs

from dlrl import strict
from dlrl import tasks
from dlrl.tasks.sudoku import data as sudoku_data
from dlrl.tasks.sudoku import grading as sudoku

DATASET = sudoku_data.SUDOKU4X4
EVERY = tasks.TASKS["sudoku"].difficulties
REPO = runs.ROOT

CHILD = """
import os, pathlib, random, signal, socket, sys, time
def refuse(*args, **kwargs):
  raise RuntimeError("network")
socket.getaddrinfo = socket.socket.connect = refuse
from dlrl.tasks.sudoku import data
directory = sys.argv[1]
"""
RACE = CHILD + """
random.seed(0)
pathlib.Path(directory, f"ready{sys.argv[2]}").touch()
while not pathlib.Path(directory, f"ready{1 - int(sys.argv[2])}").exists():
  time.sleep(0.001)
print(len(data.SUDOKU4X4.load(directory, "test", (2, 12))))
"""
KILLED = CHILD + """
import dataclasses
def generate(split):
  if split == "test":
    os.kill(os.getpid(), signal.SIGKILL)
  return data.generate(split)
dataclasses.replace(data.SUDOKU4X4, generate=generate).load(
  directory, "test", (2, 12))
"""


@pytest.fixture
def child(tmp_path):
  """Starts code in a process where importing TensorFlow raises."""
  stub = tmp_path / "stub"
  (stub / "tensorflow").mkdir(parents=True)
  (stub / "tensorflow/__init__.py").write_text("raise RuntimeError('TF')")
  env = {**os.environ, "PYTHONPATH": f"{stub}{os.pathsep}{REPO}"}
  return lambda code, *args: subprocess.Popen(
      [sys.executable, "-c", code, *map(str, args)], text=True, env=env,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def splits(sudoku_dir):
  return {split: [*DATASET.load(sudoku_dir, split, EVERY)]
          for split in tasks.SPLITS}


def count(puzzle):
  """Number of solutions, from products of rows, without the list of grids."""
  found = 0
  rows = [[r for r in ROWS if all(a in ("0", b) for a, b in
                                  zip(puzzle[i:i + 4], r, strict=True))]
          for i in (0, 4, 8, 12)]
  for a in rows[0]:
    for b in rows[1]:
      if len(set(a[:2] + b[:2])) + len(set(a[2:] + b[2:])) < 8:
        continue
      for c in rows[2]:
        for d in rows[3]:
          boxes = len(set(c[:2] + d[:2])) + len(set(c[2:] + d[2:])) == 8
          columns = all(len(set(x)) == 4 for x in zip(a, b, c, d, strict=True))
          found += boxes and columns
  return found


ROWS = [a + b + c + d for a in "1234" for b in "1234" for c in "1234"
        for d in "1234" if len({a, b, c, d}) == 4]


def test_rows_agree_with_themselves(splits):
  for rows in splits.values():
    columns = tasks.columns(rows)
    assert set(sudoku.solved_reward(
      [], columns["solution"], **columns)) == {1.0}
    for row in rows:
      assert row.keys() == {"puzzle", "solution", "difficulty", "index"}
      assert row["puzzle"].count("0") == row["difficulty"]
      assert type(row["puzzle"]) is type(row["solution"]) is str
      assert type(row["difficulty"]) is type(row["index"]) is int


def test_every_difficulty_has_its_puzzles_and_none_twice(splits):
  for split, size in (("train", 2000), ("validation", 300), ("test", 300)):
    counts = collections.Counter(row["difficulty"] for row in splits[split])
    assert counts == {blanks: size for blanks in range(2, 13)}
    assert len({row["puzzle"] for row in splits[split]}) == 11 * size


def test_test_shares_no_solution_with_train_or_validation(splits):
  train, validation, test = (
    {row["solution"] for row in splits[split]} for split in tasks.SPLITS)
  assert not train & test
  assert validation == train
  assert (len(train), len(test)) == (200, 88)


def test_train_and_validation_share_no_puzzle(splits):
  train, validation, _ = (
    {row["puzzle"] for row in splits[split]} for split in tasks.SPLITS)
  assert not train & validation


def test_puzzles_have_one_solution(splits):
  for rows in splits.values():
    some = rows[::97] + rows[-40:]
    assert {count(row["puzzle"]) for row in some} == {1}


def test_uniqueness_is_not_accidental():
  assert count("1200340021004300") > 1
  grid = sudoku.grids()[0]
  assert count(grid) == 1


def test_an_index_identifies_a_row_whatever_is_selected(sudoku_dir, splits):
  rows = splits["test"]
  assert [row["index"] for row in rows] == list(range(11 * 300))
  some = DATASET.load(sudoku_dir, "test", (7, 9))
  assert len(some) == 900
  assert all(row == rows[row["index"]] for row in some)


@pytest.mark.parametrize(("wanted", "blanks"), [
    ((2, 2), {2}), ((0, 3), {2, 3}), ((12, 99), {12})])
def test_the_range_of_difficulties_is_inclusive(sudoku_dir, wanted, blanks):
  rows = DATASET.load(sudoku_dir, "test", wanted)
  assert {row["difficulty"] for row in rows} == blanks


@pytest.mark.parametrize("wanted", [(13, 16), (0, 1), (6, 5)])
def test_a_range_without_puzzles_is_an_error(sudoku_dir, wanted):
  with pytest.raises(strict.ConfigError, match=r"overlaps 2\.\.12") as error:
    DATASET.load(sudoku_dir, "test", wanted, field="eval.difficulty")
  assert error.value.field == "eval.difficulty"


@pytest.mark.slow
def test_preparing_and_loading_are_silent_and_leave_only_the_data(
    tmp_path, capfd, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  monkeypatch.setenv("HOME", str(tmp_path))
  assert len(DATASET.load("~/data", "test", (12, 12))) == 300
  assert capfd.readouterr() == ("", "")
  assert os.listdir(tmp_path / "data") == ["sudoku4x4"]
  assert os.listdir(tmp_path / "data/sudoku4x4") == ["1.1.0"]


def test_prepared_data_is_not_prepared_again(sudoku_dir, splits):
  prepared = dataclasses.replace(DATASET, generate=None)
  assert [*prepared.load(sudoku_dir, "test", EVERY)] == splits["test"]


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
  (tmp_path / "file").touch()
  path = str(tmp_path / "file/data")
  with pytest.raises(strict.ConfigError, match="cannot be written") as error:
    DATASET.load(path, "test", EVERY)
  assert error.value.field == "task.data_dir"
  assert path in str(error.value)


def remove(path):
  path.unlink()


def truncate(path):
  os.truncate(path, path.stat().st_size // 2)


def garble(path):
  old = path.read_bytes()
  middle = len(old) // 2
  path.write_bytes(old[:middle] + b"\xff" * 64 + old[middle + 64:])


@pytest.mark.parametrize("spoil", [remove, truncate, garble])
@pytest.mark.parametrize("name", [
    "sudoku4x4-test.array_record-00000-of-00001", "dataset_info.json"])
def test_spoilt_data_is_an_error_that_says_what_to_delete(
    sudoku_dir, splits, tmp_path, spoil, name):
  shutil.copytree(sudoku_dir, tmp_path, dirs_exist_ok=True)
  directory = tmp_path / "sudoku4x4/1.1.0"
  spoil(directory / name)
  with pytest.raises(strict.ConfigError, match="delete this") as error:
    DATASET.load(str(tmp_path), "test", EVERY)
  assert error.value.field == "task.data_dir"
  assert error.value.value == str(directory)


def test_other_puzzles_than_the_pinned_ones_are_neither_made_nor_read(
    sudoku_dir, splits, tmp_path):
  other = dataclasses.replace(
    DATASET, sha256={**DATASET.sha256, "test": "0" * 64})
  with pytest.raises(strict.ConfigError, match="delete this directory"):
    other.load(sudoku_dir, "test", EVERY)
  with pytest.raises(RuntimeError, match="generator changed"):
    other.load(str(tmp_path), "train", EVERY)
  assert os.listdir(tmp_path / "sudoku4x4") == []


@pytest.mark.slow
def test_losing_the_race_to_prepare_is_success(tmp_path, splits):
  def overtaken(split):
    DATASET.load(str(tmp_path), split, EVERY)  # another process is done first
    return DATASET.generate(split)

  slow = dataclasses.replace(DATASET, generate=overtaken)
  assert [*slow.load(str(tmp_path), "test", EVERY)] == splits["test"]
  assert os.listdir(tmp_path / "sudoku4x4") == ["1.1.0"]


@pytest.mark.slow
def test_two_processes_may_prepare_at_once(child, tmp_path):
  both = [child(RACE, tmp_path, i) for i in range(2)]
  for process in both:
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "3300\n", "")


@pytest.mark.slow
def test_a_killed_preparation_does_not_break_the_next(
    child, tmp_path, splits):
  process = child(KILLED, tmp_path)
  process.communicate(timeout=60)
  assert process.returncode == -9
  assert os.listdir(tmp_path / "sudoku4x4")  # it had begun
  rows = DATASET.load(str(tmp_path), "test", EVERY)
  assert [*rows] == splits["test"]


@pytest.mark.parametrize(("blanks", "published"), [(12, 25_728), (13, 0)])
def test_twelve_blanks_are_the_most(blanks, published):
  unique = 0
  for clues in itertools.combinations(range(16), 16 - blanks):
    seen = collections.Counter(
        tuple(grid[c] for c in clues) for grid in sudoku.grids())
    unique += sum(times == 1 for times in seen.values())
  assert unique == published
