"""What the pages say of `bgpo:text`: rewards make it better, in minutes."""

import json
import os
import subprocess
import sys

import pytest
import runs


@pytest.mark.docs_long
def test_rewards_make_the_text_example_better(tmp_path):
  subprocess.run(
    [sys.executable, "-m", "dlrl.commands", "train", "--config=bgpo:text",
     "--workdir=run"], cwd=tmp_path, check=True, stdin=subprocess.DEVNULL,
    env=os.environ | {"PYTHONPATH": str(runs.ROOT)})
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  before, after = summary["before"], summary["after"]
  assert summary["n_eval"] == 256
  assert after["solved_low"] > before["solved_high"]
  assert after["solved"] > before["solved"] + 0.15
