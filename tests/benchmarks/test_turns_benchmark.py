"""What the benchmark of rows that take turns counts, and what it found."""

import json
import pathlib

import numpy as np
import pytest

from benchmarks import turns
from dlrl import config

ROOT = pathlib.Path(__file__).parents[2]
STORED = json.loads((ROOT / "benchmarks/results/turns.json").read_text())


def test_rows_in_step_wait_for_the_slowest_in_every_block():
  trace = np.array([[0, 1, 2, 2], [0, 0, 1, 2], [-1, 0, 1, 2]])
  assert turns.in_step(trace, 2) == 2 + 2
  assert turns.in_step(trace, 4) == 3


def test_columns_of_whole_rows_and_of_blocks_are_told_apart():
  sampler = config.SamplerConfig(gen_length=8, block_length=4, cache="dual")
  # Each of 128 rows needs two passes of 20 columns and three of 4.
  need = 128 * (2 * 20 + 3 * 4)
  # 64 slots: the first passes of two blocks, twice; 7 others, in all.
  spent = 64 * (4 * 20 + 7 * 4)
  assert turns.computed(sampler, 20, 64, 11, 128 * 5) == pytest.approx(
    spent / need)
  exact = config.SamplerConfig(gen_length=8, block_length=4)
  assert turns.computed(exact, 20, 64, 11, 128 * 5) == 64 * 11 / (128 * 5)


def test_the_page_shows_what_was_measured():
  page = (ROOT / "docs/models.md").read_text()
  assert turns.table(STORED["modes"]) in page
  # 128 rows, threshold 0.9: little more than what they need.
  assert STORED["modes"]["blocks of 4"]["ratio"]["16"] < 1.15
