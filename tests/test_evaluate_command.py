"""`python -m dlrl.evaluate` as users start it."""

import json
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import runs
from checkpoints import batches

from dlrl import strict
from dlrl.run import saved_params
from dlrl.run import setup as setup_lib
from dlrl.storage import checkpoint


@pytest.fixture(scope="module")
def workdir(sudoku_dir, tmp_path_factory):
  """A run with one checkpoint, of random parameters."""
  cfg = runs.tiny(sudoku_dir, mesh__cpu_devices=1)
  root = tmp_path_factory.mktemp("run")
  (root / "config.json").write_text(json.dumps(strict.to_json(cfg)))
  params = setup_lib.make(cfg).init_params()
  with checkpoint.Checkpoints(root / "checkpoints") as saver:
    saver.save(3, {"params": params}, batches(), {"base": ""})
  return root


def command(*flags):
  return [sys.executable, "-m", "dlrl.evaluate", *map(str, flags)]


def run(*flags):
  done = subprocess.run(
    command(*flags), cwd=runs.ROOT, capture_output=True, text=True,
    env=os.environ | {"PYTHONPATH": str(runs.ROOT)}, timeout=200, check=False)
  return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_single_settings_of_the_run_can_be_changed(workdir, tmp_path):
  code, out, err = run(
    f"--workdir={workdir}", f"--out={tmp_path}", "--config.evaluation.size=4",
    "--config.evaluation.lengths=(16,)")
  assert code == 0, err
  assert "| sudoku | 16 | solved |" in out
  saved = json.loads((tmp_path / "results.json").read_text())
  assert saved["settings"]["items"] == 4
  assert saved["settings"]["parameters"]["step"] == 3
  # Ordered otherwise, and continued.
  code, out, err = run(
    "--config.evaluation.lengths=(16,)", "--config.evaluation.size=4",
    "--out", tmp_path, "--workdir", workdir)
  assert code == 0, err
  assert "4 completions of length 16 exist already" in out
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    "completions.jsonl", "lock", "results.json", "results.md", "settings.json"]


@pytest.mark.slow
def test_sigterm_is_told_and_the_same_command_continues(workdir, tmp_path):
  flags = (f"--workdir={workdir}", f"--out={tmp_path}",
           "--config.evaluation.size=96", "--config.evaluation.lengths=(16,)")
  with subprocess.Popen(
      command(*flags), cwd=runs.ROOT, text=True, stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      env=os.environ | {"PYTHONPATH": str(runs.ROOT)}) as child:
    for line in child.stdout:
      if "length 16  1/6" in line:
        child.send_signal(signal.SIGTERM)
        break
    _, err = child.communicate(timeout=100)
  assert child.returncode == 42, err
  assert err.splitlines()[-1] == (
    "dlrl: told to stop; the same command continues")
  code, out, err = run(*flags)
  assert code == 0, err
  assert "completions of length 16 exist already" in out
  lines = (tmp_path / "completions.jsonl").read_text().splitlines()
  assert {json.loads(line)["item"] for line in lines} == set(range(96))
  assert len(lines) == 96


@pytest.mark.slow
@pytest.mark.parametrize("flags, line", [
  (["--workdir=W", "--out=TAKEN/x"], r"--out=TAKEN/x: cannot be written"),
  (["--workdir=W", "--out=TAKEN"], r"--out=TAKEN: cannot be written"),
  (["--workdir=/nowhere", "--config.evaluation.size=4"],
   "--workdir=/nowhere: is not the directory of a run"),
  (["--model=/nowhere", "--config.evaluation.size=4"],
   "--config.evaluation.size=4: changes a setting of --config=FILE"),
  (["--workdir=W", "--config.evaluation.siez=4"],
   "config.evaluation.siez = '4': unknown key; did you mean 'size'?"),
  (["--workdir=W", "--checkpoint=4"], "--checkpoint=4: choose from latest")])
def test_what_cannot_work_is_one_line(flags, line, workdir, tmp_path):
  (tmp_path / "file").touch()
  names = {"W": workdir, "TAKEN": tmp_path / "file"}
  for name, path in names.items():
    flags = [flag.replace(f"={name}", f"={path}") for flag in flags]
    line = line.replace(f"={name}", f"={path}")
  code, _, err = run(*flags)
  assert code == 2, err
  assert err.splitlines()[-1].startswith(f"dlrl: {line}"), err
  assert "Traceback" not in err


def living(root, monkeypatch, replaced):
  """A run that saves the next checkpoint during each of the first reads."""
  setup = setup_lib.make(runs.tiny("", mesh__cpu_devices=1))
  params = setup.init_params()
  saver = checkpoint.Checkpoints(root / "checkpoints", keep=1)
  load, count = checkpoint.load_params, [0]

  def save(step):
    shifted = jax.tree.map(lambda x: x * 0 + jnp.asarray(step, x.dtype), params)
    saver.save(step, {"params": shifted}, batches(), {"base": ""})
    saver.wait()

  def load_late(*args, step=None):
    if step is not None and count[0] < replaced:
      count[0] += 1
      save(step + 1)
    return load(*args, step=step)

  save(1)
  monkeypatch.setattr(checkpoint, "load_params", load_late)
  return setup


@pytest.mark.parametrize("replaced", [0, 1, 3])
def test_the_latest_of_a_living_run_is_one_that_was_the_latest(
    replaced, tmp_path, monkeypatch):
  setup = living(tmp_path, monkeypatch, replaced)
  params, step = saved_params.policy(setup, str(tmp_path), "latest")
  assert step == 1 + replaced
  assert all(bool((x == step).all()) for x in jax.tree.leaves(params))


@pytest.mark.parametrize("which, replaced", [("latest", 99), ("1", 1)])
def test_a_checkpoint_that_was_removed_meanwhile_is_said(
    which, replaced, tmp_path, monkeypatch):
  setup = living(tmp_path, monkeypatch, replaced)
  with pytest.raises(strict.FlagError, match="removed step 1 while") as error:
    saved_params.policy(setup, str(tmp_path), which)
  assert error.value.field == "checkpoint"
  assert "checkpoint_keep" in str(error.value)


def test_parameters_to_start_from_are_read_from_a_living_run(
    tmp_path, monkeypatch):
  setup = living(tmp_path, monkeypatch, 2)
  params = checkpoint.load_params(
    tmp_path / "checkpoints", setup.abstract_params())
  assert all(bool((x == 3).all()) for x in jax.tree.leaves(params))
