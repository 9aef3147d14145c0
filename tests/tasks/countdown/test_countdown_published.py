"""The problems of published tables, from their public file."""

import json

import pytest

from dlrl.tasks import task as task_lib
from dlrl.tasks.countdown import grading as countdown
from dlrl.tasks.countdown import published_data

pytestmark = pytest.mark.shared_data


def test_d1s_countdowns_are_those_that_its_outputs_answer(shared, tmp_path):
  dataset = published_data.COUNTDOWN_D1
  placed = tmp_path / "downloads" / "manual" / dataset.files["test"].name
  placed.parent.mkdir(parents=True)
  source = shared / "data" / "countdown" / "d1_countdown_cd3_test.jsonl"
  placed.write_bytes(source.read_bytes())
  rows = dataset.load(str(tmp_path), "test", (1, 2))
  path = shared / "data/llada_outputs/countdown_len256_steps128.jsonl"
  outputs = [json.loads(line) for line in path.read_text().splitlines()]
  assert sorted([list(row["numbers"]), row["target"]] for row in rows) == (
    sorted(row["ground_truth"] for row in outputs))
  right = countdown.metrics(
    [""] * len(rows), [row["solution"] for row in rows],
    **task_lib.columns(rows))
  assert right["solved"] == [1.0] * 256
  # Counted by others: + and - are enough for 229.
  assert sum(row["difficulty"] == 1 for row in rows) == 229
