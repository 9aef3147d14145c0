"""README's example with files of one's own, as it is written, but small."""

import json
import os
import re
import shlex
import subprocess
import sys

import pages
import pytest
import runs

SMALL = {
  "steps": 2, "sft.steps": 2, "sft.batch_size": 4, "rollout.prompts": 2,
  "rollout.group_size": 2, "learn.n_mc": 2, "learn.micro_batch": 4,
  "model.width": 16, "model.layers": 1, "model.mlp_width": 16,
  "rollout.sampler.steps": 2, "eval.sampler.steps": 2}


def section():
  text = (runs.ROOT / "README.md").read_text(encoding="utf-8")
  return re.search(r"^### Your own text\n(.*?)^##", text, re.M | re.S)[1]


@pytest.mark.slow
def test_the_example_of_own_data_works_as_written(tmp_path):
  files = dict(re.findall(
    r"`([\w.]+)`:\n\n```(?:json|python)\n(.*?)^```$", section(), re.M | re.S))
  assert sorted(files) == ["my_rewards.py", "train.jsonl", "val.jsonl"]
  for name, text in files.items():
    (tmp_path / name).write_text(text, encoding="utf-8")
  command, = (b for b in pages.BLOCK.finditer(section())
              if b["language"] == "sh")
  assert command["reason"] is None
  program, *words = shlex.split(command["text"].replace("\\\n", " "))
  assert (program, words[:2]) == ("dlrl", ["train", "--config=bgpo:text"])
  done = subprocess.run(
    # As the installed command: Python adds no folder of its own (-P).
    [sys.executable, "-P", "-m", "dlrl.commands", *words,
     *(f"--config.{name}={value}" for name, value in SMALL.items())],
    cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(runs.ROOT)},
    stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8")
  assert done.returncode == 0, done.stderr
  assert "2 held-out items" in done.stdout
  assert "validation items of files" in done.stdout
  run = tmp_path / "runs" / "opposites"
  summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
  assert summary["steps"] == 2 and summary["n_eval"] == 2
  prompts = [json.loads(line)["prompt"]
             for line in files["train.jsonl"].splitlines()]
  samples = (run / "samples.jsonl").read_text(encoding="utf-8").splitlines()
  assert samples and {json.loads(s)["prompt"] for s in samples} <= {*prompts}
