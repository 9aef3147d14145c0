"""SIGTERM: what is done is saved, and all processes agree when."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import runs

from dlrl.run import session
from dlrl.run import step_log
from dlrl.runtime import preemption
from dlrl.storage import checkpoint
from dlrl.storage import metrics

TWO = """
import sys, time
import jax
from dlrl.runtime import preemption
address, me = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(address, 2, me)
with preemption.Notice() as notice:
  for step in range(1, 1000):
    time.sleep(0.02 if me else 0.03)  # not in step with each other
    if notice.reached():
      break
    if step == 3:
      print("ready", flush=True)
print(step, flush=True)
"""


def tell():
  os.kill(os.getpid(), signal.SIGTERM)


def test_before_the_first_step_nothing_is_waited_for():
  with pytest.raises(preemption.Preempted), preemption.Notice():
    tell()
  with preemption.Notice() as notice:
    assert not notice.reached()
    tell()
    tell()  # schedulers repeat themselves
    assert notice.reached()


def test_an_inner_loop_listens_and_gives_the_ear_back():
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(preemption.Preempted), preemption.Notice():
    with preemption.Notice() as inner:
      inner.reached()
      tell()
    tell()
  assert signal.getsignal(signal.SIGTERM) == before


def test_one_of_two_processes_is_told_and_both_learn_of_it_at_the_same_step():
  with socket.socket() as s:
    s.bind(("localhost", 0))
    address = f"localhost:{s.getsockname()[1]}"
  env = os.environ | {"PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu"}
  both = [subprocess.Popen([sys.executable, "-c", TWO, address, str(i)],
                           env=env, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE) for i in (0, 1)]
  for process in both:  # gloo says that it has connected
    assert "ready\n" in (process.stdout.readline() for _ in range(2))
  both[1].send_signal(signal.SIGTERM)
  outputs = [p.communicate() for p in both]
  assert [p.returncode for p in both] == [0, 0], outputs
  first, second = (int(out) for out, _ in outputs)
  assert first == second < 999


def told_in(step, monkeypatch):
  begin = step_log.StepLog.begin

  def told(self, now, *args):
    if now == step:
      tell()
    begin(self, now, *args)

  monkeypatch.setattr(step_log.StepLog, "begin", told)


@pytest.mark.slow
def test_a_run_told_to_stop_goes_on_where_it_was(
    sudoku_dir, tmp_path, monkeypatch):
  cfg = runs.tiny(
    sudoku_dir, steps=3, checkpoint_every=99, eval__every=2,
    sft__steps=50)
  _, want = runs.run_here(cfg, tmp_path / "whole")
  workdir, save = tmp_path / "told", session.Session.save
  with monkeypatch.context() as patch:  # in the warm start, as it saves
    patch.setattr(session.Session, "save", lambda *args, **kwargs: (
      tell(), save(*args, **kwargs)))
    with pytest.raises(preemption.Preempted, match="fine-tuning step 41 is"):
      runs.run_here(cfg, workdir)
  with monkeypatch.context() as patch:
    told_in(2, patch)
    with pytest.raises(preemption.Preempted, match="step 2 is saved"):
      runs.run_here(cfg, workdir)
  assert checkpoint.steps(workdir / "checkpoints") == [2]
  assert metrics.rows(workdir)[-1]["step"] == 2
  assert runs.run_here(cfg, workdir)[1] == want


@pytest.mark.slow
def test_told_in_its_last_step_a_run_ends(sudoku_dir, tmp_path, monkeypatch):
  told_in(2, monkeypatch)
  cfg = runs.tiny(sudoku_dir, steps=2, sft__steps=0)
  _, rows = runs.run_here(cfg, tmp_path / "run")
  assert "test/solved" in rows[-1]
