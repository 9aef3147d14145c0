"""`dlrl evaluate` by two processes: real ones, started by launch/local.sh."""

import json
import os
import subprocess
import sys

import pytest
import runs
from checkpoints import batches

from dlrl import strict
from dlrl.run import setup as setup_lib
from dlrl.storage import checkpoint

pytestmark = pytest.mark.slow

FILES = ("completions.jsonl", "results.json", "results.md", "settings.json")


@pytest.fixture(scope="module")
def evaluate(sudoku_dir, tmp_path_factory):
  """Evaluates a run of random parameters, with so many processes."""
  # In its second batch, the last process has no row that counts.
  cfg = runs.tiny(
    sudoku_dir, mesh__cpu_devices=2, eval__batch_size=8, evaluation__size=5,
    evaluation__samples=2, evaluation__lengths=(16,),
    eval__sampler__temperature=1.0)
  root = tmp_path_factory.mktemp("run")
  (root / "config.json").write_text(json.dumps(strict.to_json(cfg)))
  params = setup_lib.make(cfg).init_params()
  with checkpoint.Checkpoints(root / "checkpoints") as saver:
    for step in (1, 3):
      saver.save(step, {"params": params}, batches(), {"base": ""})

  def run(processes, out, *flags):
    done = subprocess.run(
      [runs.ROOT / "launch" / "local.sh", str(processes), "evaluate",
       f"--workdir={root}", f"--out={out}", "--peer_timeout=10", *flags],
      cwd=runs.ROOT, capture_output=True, text=True, timeout=200, check=False,
      env=os.environ | {
        "PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu",
        "PYTHON": sys.executable,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") +
                     " --xla_backend_optimization_level=0"
                     " --xla_llvm_disable_expensive_passes=true"})
    return done.returncode, done.stdout, done.stderr

  return run


@pytest.fixture(scope="module")
def evaluated(evaluate, tmp_path_factory):
  """The directories of what one process found, and two, and what they said."""
  found = []
  for count in (1, 2):
    out = tmp_path_factory.mktemp(f"by{count}")
    code, said, err = evaluate(count, out)
    assert code == 0, err
    found.append((out, said))
  return found


def test_two_processes_write_the_bytes_that_one_writes(evaluated):
  (one, _), (two, said) = evaluated
  for name in FILES:
    assert (two / name).read_bytes() == (one / name).read_bytes(), name
  assert sorted(p.name for p in two.iterdir()) == sorted([*FILES, "lock"])
  assert said.count("| sudoku | 16 | solved |") == 1  # process 0 alone speaks
  records = [json.loads(line) for line in (
    two / "completions.jsonl").read_text().splitlines()]
  assert [(r["sample"], r["item"]) for r in records] == [
    (sample, item) for sample in range(2) for item in range(5)]


def test_two_processes_go_on_where_one_was_killed(
    evaluated, evaluate, tmp_path):
  one = evaluated[0][0]
  lines = (one / "completions.jsonl").read_text().splitlines(keepends=True)
  (tmp_path / "settings.json").write_bytes((one / "settings.json").read_bytes())
  (tmp_path / "completions.jsonl").write_text(
    "".join(lines[:3]) + lines[3][:30])
  code, said, err = evaluate(2, tmp_path)
  assert code == 0, err
  assert "3 completions of length 16 exist already" in said
  for name in FILES:
    assert (tmp_path / name).read_bytes() == (one / name).read_bytes(), name


def test_all_processes_refuse_what_process_0_finds_wrong(evaluated, evaluate):
  two = evaluated[1][0]
  code, _, err = evaluate(2, two, "--checkpoint=1")
  assert code == 2, err
  assert err.count(f"dlrl: --out={two}: holds an evaluation with other") == 2
  assert "Traceback" not in err
