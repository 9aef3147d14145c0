"""Disks that are full or cleared under a run."""

import errno
import os
import pathlib
import resource
import shutil
import subprocess

import pytest
import runs

from dlrl.run import step_log
from dlrl.storage import checkpoint
from dlrl.storage import disk_errors


class Tmpfs:
  """A disk of its own, full at the second checkpoint; needs the right."""

  def __init__(self, root):
    self.root = root
    root.mkdir()

  def _mount(self, options):
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs",
                           self.root], capture_output=True).returncode == 0

  def __enter__(self):
    if not self._mount("size=180k"):
      pytest.skip("may not mount")

  def free(self):
    assert self._mount("remount,size=8m")

  def __exit__(self, *exc):
    subprocess.run(["umount", "--lazy", self.root], check=True)


class Limit:
  """Files may not grow beyond what an array of a checkpoint takes."""

  def __init__(self, root):
    root.mkdir()
    self._old = resource.getrlimit(resource.RLIMIT_FSIZE)

  def __enter__(self):
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, self._old[1]))

  def free(self):
    resource.setrlimit(resource.RLIMIT_FSIZE, self._old)

  def __exit__(self, *exc):
    self.free()


@pytest.fixture(scope="module")
def whole(sudoku_dir, tmp_path_factory):
  cfg = runs.tiny(sudoku_dir, steps=4, sft__steps=0)
  return cfg, runs.run_here(cfg, tmp_path_factory.mktemp("whole") / "run")[1]


@pytest.mark.slow
@pytest.mark.parametrize("disk", [Tmpfs, Limit])
def test_a_run_that_finds_no_space_says_so_and_continues_when_there_is_some(
    disk, whole, tmp_path):
  cfg, want = whole
  disk = disk(tmp_path / "disk")
  workdir = tmp_path / "disk" / "run"
  with disk:
    with pytest.raises((OSError, ValueError)) as error:
      runs.run_here(cfg, workdir)
    assert disk_errors.explain(error.value, workdir).startswith(
      f"no space left for {workdir}: free some")
    assert 4 not in checkpoint.steps(workdir / "checkpoints")
    disk.free()
    assert runs.run_here(cfg, workdir)[1] == want


def removed(what, monkeypatch):
  """Removes it in step 2."""
  begin = step_log.StepLog.begin

  def begin_without(self, step, *args):
    if step == 2:
      shutil.rmtree(what)
    begin(self, step, *args)

  monkeypatch.setattr(step_log.StepLog, "begin", begin_without)


@pytest.mark.slow
def test_a_run_whose_directory_is_removed_ends_and_says_so(
    whole, tmp_path, monkeypatch):
  workdir = tmp_path / "run"
  removed(workdir, monkeypatch)
  with pytest.raises(FileNotFoundError) as error:
    runs.run_here(whole[0], workdir)
  # No file that is gone stays open.
  links = [os.readlink(link) for link in pathlib.Path("/proc/self/fd").iterdir()
           if os.path.islink(link)]
  assert not [link for link in links if str(workdir) in link]
  assert (
    "metrics.jsonl: removed while the run wrote to it"
    in disk_errors.explain(error.value, workdir)
  )


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_removed_makes_new_ones(
    whole, tmp_path, monkeypatch):
  cfg, want = whole
  workdir = tmp_path / "run"
  removed(workdir / "checkpoints", monkeypatch)
  assert runs.run_here(cfg, workdir)[1] == want
  assert checkpoint.steps(workdir / "checkpoints") == [2, 4]


def test_what_has_another_cause_is_not_explained():
  full = OSError(errno.ENOSPC, "No space left on device")
  stored = ValueError("RESOURCE_EXHAUSTED: Failed [os_error_code='122']")
  for inner in (full, stored, ExceptionGroup("several", [KeyError(1), full])):
    outer = RuntimeError("x")
    outer.__cause__ = inner
    assert disk_errors.explain(outer, "w").startswith("no space left for w")
  for other in (OSError(errno.EACCES, "x"), FileNotFoundError(2, "x", "/etc/y"),
                ValueError("[os_error_code='2']")):
    assert disk_errors.explain(other, "w") is None
