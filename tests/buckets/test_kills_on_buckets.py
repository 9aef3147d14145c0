"""A run on a bucket that is killed ends as if it had not been: real processes.

Each start has a temporary directory of its own, as on another host.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time

import fake_gcs
import jax
import numpy as np
import pytest
import runs

from dlrl.buckets import mirror
from dlrl.storage import checkpoint
from dlrl.storage import metrics

LEASE = 8.0
# Where a process is killed: at a request of this kind, which is not answered.
MOMENTS = (
  r"POST run/config.json", r"POST run/warm_start/\w+/checkpoints/80/state/d/",
  r"POST run/warm_start/\w+/metrics.jsonl", r"POST run/starts.jsonl",
  r"POST run/checkpoints/2/state/commit_success", r"POST run/metrics.jsonl",
  r"POST run/checkpoints/4/commit_success",
  r"POST run/checkpoints/6/_CHECKPOINT_METADATA", r"DELETE run/checkpoints/2/",
  r"POST run/summary.json")


@pytest.fixture(scope="module")
def whole(sudoku_dir, tmp_path_factory):
  """A run that nobody disturbed, on a disk."""
  root = tmp_path_factory.mktemp("whole") / "run"
  process = runs.start(
    os.environ | {"PYTHONPATH": str(runs.ROOT)}, root, sudoku_dir)
  output, _ = process.communicate()
  assert process.returncode == 0, output
  return root


class Host:
  """Where a run is started once."""

  def __init__(self, gcs, directory, *command):
    directory.mkdir()
    self.log = directory / "log"
    with self.log.open("w") as log:
      self.process = subprocess.Popen(
        [sys.executable, str(runs.ROOT / "tests/support/short_lease.py"),
         str(LEASE), *command[2:]], cwd=runs.ROOT, stdout=log, stderr=log,
        env=gcs.environment(TMPDIR=str(directory)))

  def wait(self):
    return self.process.wait(timeout=300), self.log.read_text()


def troubled(process, moment, dice):
  """Requests fail and are slow; the one at `moment` is the process's last."""
  def fault(method, name):
    if process() and re.match(moment, f"{method} {name}"):
      process().kill()
      return "cut"
    return dice.choice([None] * 20 + [503, 0.05])

  return fault


def assert_equal(url, whole):
  fake_gcs.forget()
  root = mirror.local(url, AssertionError)
  assert runs.timeless(root) == runs.timeless(whole)
  assert metrics.samples(root) == metrics.samples(whole)
  jax.tree.map(np.testing.assert_array_equal, runs.params_of(root),
               runs.params_of(whole))


@pytest.mark.parametrize("moments", [
  pytest.param(MOMENTS[6:7], marks=pytest.mark.slow, id="once"),
  pytest.param(MOMENTS, marks=pytest.mark.long, id="ten times")])
def test_killed_at_requests_a_run_ends_as_if_it_had_not_been(
    moments, whole, gcs, bucket, sudoku_dir, tmp_path):
  url, dice, hosts = f"{bucket}/run", random.Random(0), []
  command = runs.command(url, sudoku_dir)
  for number, moment in enumerate(moments):
    gcs.fault = troubled(
      lambda n=number: hosts[n].process if n < len(hosts) else None,
      moment, dice)
    hosts.append(Host(gcs, tmp_path / str(number), *command))
    code, log = hosts[-1].wait()
    assert code == -signal.SIGKILL, f"{moment}: {log}"
  gcs.fault = troubled(lambda: None, "", dice)
  code, log = Host(gcs, tmp_path / "last", *command).wait()
  assert code == 0, log
  assert "has a lease of" in log
  assert_equal(url, whole)


@pytest.mark.slow
def test_a_stale_writer_ends_and_spoils_nothing(
    whole, gcs, bucket, sudoku_dir, tmp_path):
  url, stopped = f"{bucket}/run", []
  command = runs.command(url, sudoku_dir)

  def fault(method, name):
    if not stopped and re.match(r"POST run/checkpoints/4/state/d/",
                                f"{method} {name}"):
      stopped.append(name)
      first.process.send_signal(signal.SIGSTOP)

  gcs.fault = fault
  first = Host(gcs, tmp_path / "first", *command)
  while not stopped and first.process.poll() is None:
    time.sleep(0.01)
  code, log = Host(gcs, tmp_path / "second", *command).wait()
  assert code == 0, log
  first.process.send_signal(signal.SIGCONT)
  code, log = first.wait()
  assert code == 44, log
  assert "the lease of gs://" in log
  assert "Traceback" not in log
  assert_equal(url, whole)
  assert checkpoint.steps(mirror.local(url, AssertionError) / "checkpoints"
                          ) == [4, 6]


@pytest.mark.long
def test_a_second_start_is_refused_while_the_first_runs(
    gcs, bucket, sudoku_dir, tmp_path):
  url = f"{bucket}/run"
  command = runs.command(
    url, sudoku_dir, "--config.sft.steps=0", *(
      f"--config.{k}=100000" for k in (
        "steps", "eval.every", "checkpoint_every")))
  first = Host(gcs, tmp_path / "first", *command)
  while b'"step": 0' not in gcs.files(url).get("starts.jsonl", b""):
    assert first.process.poll() is None, first.log.read_text()
    time.sleep(0.05)
  code, log = Host(gcs, tmp_path / "second", *command).wait()
  assert code == 2, log
  assert f"--workdir={url}: in use by " in log
  while "rl " not in first.log.read_text():
    assert first.process.poll() is None, first.log.read_text()
    time.sleep(0.05)
  first.process.send_signal(signal.SIGTERM)
  code, log = first.wait()
  assert code == 42, log
  fake_gcs.forget()
  root = mirror.local(url, AssertionError)
  step = metrics.rows(root)[-1]["step"]
  assert checkpoint.steps(root / "checkpoints") == [step]
