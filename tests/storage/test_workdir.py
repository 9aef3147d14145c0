"""Who may claim a directory."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

import dlrl
from dlrl import strict
from dlrl.storage import workdir

CFG = {"seed": 0, "update": {"loss": "bgpo", "betas": [0.9, 0.99]}}

def begin(root):
  """What the first step of a run leaves."""
  (root / "metrics.jsonl").write_text(
    '{"step": 0, "eval/solved": 0.0}\n{"step": 1, "reward/mean": 0.0}\n')


HOLD = """
import json, sys, time
from dlrl.storage import workdir
held = workdir.claim(sys.argv[1], json.loads(sys.argv[2]))
print("claimed", flush=True)
time.sleep(60)
"""


def hold_in_another_process(path):
  root = pathlib.Path(dlrl.__file__).parents[1]
  env = {**os.environ, "PYTHONPATH": str(root)}
  child = subprocess.Popen([sys.executable, "-c", HOLD, str(path),
                            json.dumps(CFG)], stdout=subprocess.PIPE, env=env)
  assert child.stdout.readline() == b"claimed\n"
  return child


def test_a_new_directory_is_created_with_its_config(tmp_path):
  with workdir.claim(tmp_path / "a" / "b", CFG) as run:
    assert not run.resumed
    assert run.path == tmp_path / "a" / "b"
    assert json.loads((run.path / "config.json").read_text()) == CFG
    assert sorted(os.listdir(run.path)) == ["config.json", "lock"]


def test_the_same_config_continues(tmp_path):
  workdir.claim(tmp_path, CFG).close()
  (tmp_path / "metrics.jsonl").write_text("{}\n")
  with workdir.claim(tmp_path, CFG) as run:
    assert run.resumed
  assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"


def test_another_config_is_refused_with_every_difference(tmp_path):
  workdir.claim(tmp_path, CFG).close()
  begin(tmp_path)
  before = (tmp_path / "config.json").read_text()
  other = {"seed": 1, "update": {"loss": "spg", "betas": [0.9, 0.99]}}
  with pytest.raises(strict.FlagError) as e:
    workdir.claim(tmp_path, other)
  assert e.value.field == "workdir"
  assert "config.seed: 0 -> 1" in str(e.value)
  assert "config.update.loss: 'bgpo' -> 'spg'" in str(e.value)
  assert "betas" not in str(e.value)
  assert (tmp_path / "config.json").read_text() == before


def test_free_parts_of_a_config_may_change_or_be_new(tmp_path):
  workdir.claim(tmp_path, CFG).close()
  begin(tmp_path)
  before = (tmp_path / "config.json").read_text()
  other = CFG | {"watchdog": {"times": 3.0}}
  with pytest.raises(strict.FlagError, match=r"config.watchdog: None -> "):
    workdir.claim(tmp_path, other)
  with workdir.claim(tmp_path, other, free=("watchdog",)) as run:
    assert run.changed == {"watchdog": (None, {"times": 3.0})}
  assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize(("name", "begins"), [
  ("7", True), ("7.damaged", True), ("7.damaged-2", True), ("lock", False),
  ("7.orbax-checkpoint-tmp", False)])
def test_a_run_has_begun_with_its_first_step(name, begins, tmp_path):
  workdir.claim(tmp_path, CFG).close()
  (tmp_path / "warm_start" / "a" / "checkpoints" / "9").mkdir(parents=True)
  (tmp_path / "metrics.jsonl").write_text('{"step": 0, "a": 1}\n{"step": 1')
  (tmp_path / "checkpoints").mkdir()
  with workdir.claim(tmp_path, {"seed": 1}) as run:
    assert run.changed["seed"] == (0, 1)
  (tmp_path / "checkpoints" / name).mkdir()
  assert workdir.begun(tmp_path) == begins
  (tmp_path / "checkpoints" / name).rmdir()
  begin(tmp_path)
  assert workdir.begun(tmp_path)
  with pytest.raises(strict.FlagError, match=r"config.seed: 0 -> 1"):
    workdir.claim(tmp_path, {"seed": 1})


def test_a_setting_newer_than_the_run_had_its_default(tmp_path):
  workdir.claim(tmp_path, CFG).close()
  begin(tmp_path)
  defaults = {"seed": 5, "update": {"loss": "", "tokens": "canvas"}, "new": {}}
  same = {**CFG, "update": {**CFG["update"], "tokens": "canvas"}, "new": {}}
  with workdir.claim(tmp_path, same, defaults=defaults) as run:
    assert run.resumed
  other = {**same, "update": {**CFG["update"], "tokens": "until_eos"}}
  with pytest.raises(strict.FlagError) as e:
    workdir.claim(tmp_path, other, defaults=defaults)
  assert str(e.value).splitlines()[1:] == [
    "  config.update.tokens: 'canvas' -> 'until_eos'"]


def test_a_part_of_a_section_may_be_free(tmp_path):
  first = {"seed": 1, "task": {"name": "a", "long_prompts": "error"}}
  workdir.claim(tmp_path, first).close()
  begin(tmp_path)
  cut = {"seed": 1, "task": {"name": "a", "long_prompts": "truncate"}}
  with workdir.claim(tmp_path, cut, free=("task.long_prompts",)) as run:
    assert run.resumed
  other = {"seed": 1, "task": {"name": "b", "long_prompts": "truncate"}}
  with pytest.raises(strict.FlagError, match=r"task\.name") as error:
    workdir.claim(tmp_path, other, free=("task.long_prompts", "name"))
  assert "long_prompts" not in str(error.value)


def test_a_refused_claim_does_not_keep_the_lock(tmp_path):
  workdir.claim(tmp_path, CFG).close()
  begin(tmp_path)
  with pytest.raises(strict.FlagError) as kept:
    workdir.claim(tmp_path, {"seed": 1})
  with workdir.claim(tmp_path, CFG) as run:  # while the traceback is alive
    assert run.resumed
  del kept


def test_files_of_somebody_else_are_refused_and_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("x")
  with pytest.raises(strict.FlagError, match=r"not of a run \(thesis.tex\)"):
    workdir.claim(tmp_path, CFG)
  assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_config_json_of_another_program_is_refused(tmp_path):
  (tmp_path / "config.json").write_text("[1]")
  with pytest.raises(strict.FlagError, match="not of a run"):
    workdir.claim(tmp_path, CFG)
  (tmp_path / "config.json").write_text("port = 80")
  with pytest.raises(strict.FlagError, match="not of a run"):
    workdir.claim(tmp_path, CFG)


def test_a_start_killed_before_its_config_was_written_can_begin_again(tmp_path):
  (tmp_path / "lock").write_text("123\n")
  (tmp_path / "config.json.tmp").write_text('{"se')
  with workdir.claim(tmp_path, CFG) as run:
    assert not run.resumed
    assert json.loads((run.path / "config.json").read_text()) == CFG


def test_a_file_or_a_path_that_cannot_exist_is_refused(tmp_path):
  (tmp_path / "file").write_text("x")
  for path in (tmp_path / "file", tmp_path / "file" / "below"):
    with pytest.raises(strict.FlagError, match="can be written"):
      workdir.claim(path, CFG)
  with pytest.raises(strict.FlagError, match="give a path"):
    workdir.claim("", CFG)
  with pytest.raises(strict.FlagError, match="only local"):
    workdir.claim("s3://bucket/run", CFG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_refused(tmp_path):
  tmp_path.chmod(0o500)
  with pytest.raises(strict.FlagError, match="Permission denied"):
    workdir.claim(tmp_path, CFG)


def test_a_second_process_is_told_who_is_there_and_kill_9_frees(tmp_path):
  child = hold_in_another_process(tmp_path)
  try:
    with pytest.raises(strict.FlagError, match=f"pid {child.pid}"):
      workdir.claim(tmp_path, CFG)
    with pytest.raises(strict.FlagError, match="in use"):
      workdir.claim(tmp_path, {"seed": 5})  # busy matters more than different
    child.send_signal(signal.SIGKILL)
    child.wait()
    with workdir.claim(tmp_path, CFG) as run:
      assert run.resumed
      assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
  finally:
    child.kill()
    child.wait()


def test_one_process_cannot_claim_twice_until_it_closes(tmp_path):
  first = workdir.claim(tmp_path, CFG)
  with pytest.raises(strict.FlagError, match="in use"):
    workdir.claim(tmp_path, CFG)
  first.close()
  first.close()
  workdir.claim(tmp_path, CFG).close()


def test_a_write_that_dies_half_way_leaves_the_old_file(tmp_path, monkeypatch):
  path = tmp_path / "x.json"
  workdir.write_json(path, {"a": 1})

  def die(fd):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", die)
  with pytest.raises(OSError, match="No space"):
    workdir.write_json(path, {"a": 2})
  assert json.loads(path.read_text()) == {"a": 1}
