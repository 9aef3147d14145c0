"""What hangs is ended, with its stacks; what is slow is not."""

import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
import runs

from dlrl import config
from dlrl.runtime import watchdog


def watch(times=3.0, least=2.0, first=60.0):
  """A dog that looks only when it is told to; a look stands for a second."""
  ended = []
  cfg = config.WatchdogConfig(times, least, first)
  return ended, watchdog.Watchdog(cfg, end=lambda: ended.append(1), poll=1.0)


def work(dog, kind, seconds, often=1):
  for _ in range(often):
    dog.begin(kind)
    for _ in range(seconds):
      dog.look()


def test_what_takes_some_times_longer_than_usual_is_ended_with_its_stacks(
    capfd):
  ended, dog = watch()
  work(dog, "step", 59)  # compiles
  work(dog, "step", 4, often=2)
  work(dog, "step", 12)
  assert not ended
  work(dog, "step", 25)  # three times the median of 59, 4, 4, 12
  assert ended
  error = capfd.readouterr().err
  assert "this step has not ended in 25 s, it usually takes 8 s" in error
  assert "in work\n" in error  # this thread


def test_kinds_have_their_own_times_and_a_floor():
  ended, dog = watch(least=9.0)
  work(dog, "step", 1, often=5)
  work(dog, "evaluation", 50)  # the first one: nobody knows how long
  work(dog, "step", 9)  # nine times, but not above the floor
  dog.begin("evaluation")
  assert not ended
  assert [dog.limit(kind) for kind in ("step", "evaluation", "checkpoint")] == [
    9, 150, 60]


def test_the_first_of_a_kind_has_a_limit_and_no_work_has_none():
  ended, dog = watch(first=10.0)
  for _ in range(100):
    dog.look()
  work(dog, "step", 10)
  assert not ended
  work(dog, "evaluation", 11)
  assert ended


def test_it_looks_by_itself_while_it_is_entered_unless_it_is_left_out():
  for times in (1.0, 0.0):
    ended = threading.Event()
    with watchdog.Watchdog(
      config.WatchdogConfig(times, 0.02, 0.02), end=ended.set, poll=0.01
    ) as dog:
      dog.begin("step")
      assert ended.wait(60 if times else 0.2) == bool(times)


SUSPENDED = """
import time
from dlrl import config
from dlrl.runtime import watchdog
with watchdog.Watchdog(config.WatchdogConfig(1.0, 0.8, 0.8), poll=0.1) as dog:
  dog.begin("step")
  print("ready", flush=True)
  time.sleep(0.3)
"""


@pytest.mark.slow
def test_a_process_that_was_suspended_does_not_hang():
  process = subprocess.Popen(
    [sys.executable, "-c", SUSPENDED], stdout=subprocess.PIPE,
    env=os.environ | {"PYTHONPATH": str(runs.ROOT), "JAX_PLATFORMS": "cpu"})
  process.stdout.readline()
  process.send_signal(signal.SIGSTOP)
  time.sleep(1.5)
  process.send_signal(signal.SIGCONT)
  process.communicate()
  assert process.returncode == 0


def hangs(prompts, completions, **columns):
  """A reward, which answers three times."""
  hangs.asked = getattr(hangs, "asked", 0) + 1
  if hangs.asked > 3:
    time.sleep(600)
  return [0.0] * len(completions)


@pytest.mark.slow
def test_a_run_that_hangs_ends_with_a_code_of_its_own(sudoku_dir, tmp_path):
  here = pathlib.Path(__file__).parent
  environment = os.environ | {"PYTHONPATH": os.pathsep.join(
    map(str, (runs.ROOT, runs.ROOT / "tests" / "support", here)))}
  process = runs.start(
    environment, tmp_path / "run", sudoku_dir, "--config.sft.steps=0",
    "--config.rollout.rewards=('test_watchdog:hangs',)",  # one more
    "--config.rollout.reward_weights=(1.0,0.0)",
    "--config.watchdog.least_seconds=1")
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 43, output
  assert "dlrl: hangs: this step has not ended in" in output
  assert "in hangs\n" in output
  assert "in train\n" in output
