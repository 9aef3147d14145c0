"""Which files the settings `task.*_files` name."""

import json

import pytest

from dlrl import strict
from dlrl.tasks.user_files import files


def write(path, row):
  path.write_text(json.dumps(row) + "\n")


def load(patterns):
  return files.load(patterns, bad_rows="error", field="task.train_files")


@pytest.mark.parametrize(("name", "pattern"), [
  ("data[1].jsonl", "{}"), ("dir [v2]/train.jsonl", "{}"), ("[ab].jsonl", "{}"),
  ("a,b.jsonl", "{}"), ("what?.jsonl", "{}"), ("*.jsonl", "{}"),
  ("dir [v2]/train.jsonl", "dir [v2]/*.jsonl"),
  ("a[1]/b[2]/train.jsonl", "a[1]/**/t*n.jsonl"),
  ("a[1]/b2/train.jsonl", "a[1]/b[2]/train.jsonl")])
def test_a_path_that_exists_is_taken_as_it_is(tmp_path, name, pattern):
  for other in ("data1.jsonl", "a.jsonl", "whats.jsonl"):  # what it matches
    write(tmp_path / other, {"prompt": "other"})
  (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
  write(tmp_path / name, {"prompt": "mine"})
  path = f"{tmp_path}/{pattern.replace('{}', name)}"
  rows = load(path)
  assert [row["prompt"] for row in rows] == ["mine"]
  assert rows.where(0) == f"{tmp_path}/{name}:1"
  assert files.checksum(files.Files(train=path)) == files.checksum(
    files.Files(train=str(tmp_path / name)))
  both = load(f"{path},{tmp_path}/[d]ata1.jsonl") if "," not in name else None
  assert both is None or len(both) == 2


def test_a_file_and_a_link_to_it_are_the_same_rows_twice(tmp_path):
  write(tmp_path / "a.jsonl", {"prompt": "a"})
  (tmp_path / "b.jsonl").symlink_to(tmp_path / "a.jsonl")
  with pytest.raises(strict.ConfigError, match=r"twice: .*a.jsonl.*b.jsonl"):
    load(f"{tmp_path}/*.jsonl")
  assert len(load(f"{tmp_path}/b.jsonl")) == 1
