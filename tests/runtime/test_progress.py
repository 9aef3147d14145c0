"""Progress lines on a clock of the test's own."""

import os
import subprocess
import sys

from dlrl.runtime import progress


class Clock:
  def __init__(self):
    self.now = 0.0

  def __call__(self):
    return self.now


def make(total, label, seconds):
  clock = Clock()
  p = progress.Progress(total, label, clock)
  for s in seconds:
    clock.now += s
    p.tick()
  return p


def test_a_line_has_the_step_the_values_the_pace_and_what_is_left():
  p = make(100, "rl", [40.0, 2.8, 2.8])
  assert p.line(37, reward=0.71, solved=0.625) == (
    "rl   37/100  reward 0.71  solved 0.62  2.80 s/step  ETA 2:56")


def test_the_compiling_step_and_a_slow_one_do_not_disturb_the_estimate():
  p = make(1000, "rl", [300.0, 1.0, 1.0, 60.0, 1.0, 1.0])
  assert "1.00 s/step  ETA 0:10" in p.line(990)


def test_there_is_no_estimate_before_the_second_step():
  assert make(9, "sft", [30.0]).line(1, loss=1.5) == "sft  1/9  loss 1.50"


def test_hours_are_shown_and_the_end_is_zero():
  p = make(2000, "rl", [1.0, 10.0])
  assert p.line(10).endswith("ETA 5:31:40")
  assert p.line(2000).endswith("ETA 0:00")


def test_numbers_keep_two_or_three_telling_digits():
  line = make(9, "rl", []).line(
    1, a=3, b=1234.5, c=3e-4, d=float("nan"), e="text", f=0.0, g=2e7)
  assert line == (
    "rl  1/9  a 3  b 1234  c 3.0e-04  d nan  e text  f 0.00  g 2.0e+07")


def test_the_pace_is_that_of_recent_steps():
  p = make(200, "rl", [9.0] * 60 + [1.0] * 25)
  assert "1.00 s/step" in p.line(85)


def test_say_reaches_a_pipe_at_once_as_one_plain_line():
  code = ("from dlrl.runtime import progress; import os; "
          "progress.say('hello'); os._exit(0)")  # without Python's own flush
  env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
  out = subprocess.run([sys.executable, "-c", code], capture_output=True,
                       text=True, check=True, env=env).stdout
  assert out.endswith(" s] hello\n")
  assert out.count("\n") == 1
  assert "\r" not in out


def test_what_takes_long_prints_how_much_is_left(capsys):
  seconds = iter(range(0, 99, 2))
  assert list(progress.watched(
    range(8), "rows", clock=lambda: next(seconds))) == list(range(8))
  out, err = capsys.readouterr()
  assert not out  # of whoever calls a function that counts
  lines = err.splitlines()
  assert [line.partition("] ")[2] for line in lines] == [
    "rows  3/8  ETA 0:10", "rows  6/8  ETA 0:04"]


def test_what_takes_no_time_prints_nothing(capsys):
  assert list(progress.watched("abc", "rows")) == ["a", "b", "c"]
  assert not list(progress.watched((), "rows"))
  assert not any(capsys.readouterr())
