"""Forward passes of an update, by what its loss keeps of other policies."""

import json
import pathlib

import pytest

from benchmarks import method_cost

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coupled_grpo", "espo", "unigrpo"])
def test_updates_cost_the_passes_that_the_page_has(name):
  stored = json.loads(
    (ROOT / "benchmarks/results/method_cost.json").read_text())
  assert method_cost.forwards(name) == stored["methods"][name]["forwards"]
