"""Links in a directory of ours do not lead to the user's other files."""

import os
import pathlib

import pytest

from dlrl import strict
from dlrl.evaluation import completions_log
from dlrl.runtime import goodput
from dlrl.runtime import own_files
from dlrl.storage import disk_errors
from dlrl.storage import metrics
from dlrl.storage import plots
from dlrl.storage import workdir

CFG = {"seed": 0}


@pytest.fixture
def victim(tmp_path):
  path = tmp_path / "victim"
  path.write_text("precious")
  yield path
  assert path.read_text() == "precious"


def link(root, name, victim):
  root.mkdir(exist_ok=True)
  (root / name).symlink_to(victim)


def test_a_lock_that_is_a_link_is_refused(victim, tmp_path):
  link(tmp_path / "run", "lock", victim)
  with pytest.raises(strict.FlagError, match=r"lock is a symbolic link"):
    workdir.claim(tmp_path / "run", CFG)


@pytest.mark.parametrize("name", [
  "metrics.jsonl", "samples.jsonl", "starts.jsonl"])
def test_files_that_are_appended_to_are_no_links(name, victim, tmp_path):
  link(tmp_path / "run", name, victim)
  with pytest.raises(OSError) as error:
    goodput.start(tmp_path / "run")
    metrics.MetricsWriter(tmp_path / "run")
  assert f"{name} is a symbolic link" in disk_errors.explain(
    error.value, tmp_path / "run")


@pytest.mark.parametrize("name", ["completions.jsonl", "lock"])
def test_an_evaluations_files_are_no_links(name, victim, tmp_path):
  root = tmp_path / "out"
  completions_log.CompletionsLog(root, CFG).close()
  (root / name).unlink()
  link(root, name, victim)
  with pytest.raises(strict.FlagError, match=f"{name} is a symbolic link"):
    completions_log.CompletionsLog(root, CFG)


@pytest.mark.parametrize("name", ["x.json", "x.json.tmp", "curves.png"])
def test_files_that_are_replaced_are_replaced_themselves(
    name, victim, tmp_path):
  root = tmp_path / "run"
  link(root, name, victim)
  workdir.write_json(root / "x.json", {"a": 1})
  plots.curves([{"step": 1, "reward/mean": 0.5}], root / "curves.png",
               title="t")
  assert (root / "x.json").is_file()
  assert not (root / "x.json").is_symlink()
  assert not (root / "curves.png").is_symlink()


def test_a_pipe_is_no_file(tmp_path):
  os.mkfifo(tmp_path / "lock")
  with pytest.raises(strict.FlagError, match="no regular file"):
    workdir.claim(tmp_path, CFG)


def test_no_read_waits_for_the_other_end_of_a_pipe(tmp_path):
  os.mkfifo(tmp_path / "metrics.jsonl")
  with pytest.raises(OSError, match="no regular file"):
    own_files.read(tmp_path / "metrics.jsonl")
  assert workdir.begun(tmp_path)
  os.mkfifo(tmp_path / "config.json")
  with pytest.raises(strict.FlagError, match="not of a run"):
    workdir.claim(tmp_path, CFG)


def test_a_write_that_fails_leaves_nothing_else(tmp_path, monkeypatch):
  def die(fd):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", die)
  with pytest.raises(OSError, match="No space"):
    own_files.replace(tmp_path / "x", b"1")
  assert os.listdir(tmp_path) == []


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path):
  own_files.replace(tmp_path / "x", b"1")
  (tmp_path / "y").touch()
  assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_what_a_killed_start_left_is_known_by_its_exact_name(tmp_path):
  (tmp_path / "config.json.0123456789abcdef.tmp").touch()
  workdir.claim(tmp_path, CFG).close()
  for name in ("config.json.draft.tmp", "thesis.0123456789abcdef.tmp"):
    other = tmp_path / name.replace(".", "_")
    other.mkdir()
    (other / name).touch()
    with pytest.raises(strict.FlagError, match="not of a run"):
      workdir.claim(other, CFG)
    assert [p.name for p in pathlib.Path(other).iterdir()] == [name]
