"""What a run says of a step."""

import math
import types

import numpy as np
import pytest

from dlrl.run import grading
from dlrl.run import step_log
from dlrl.runtime import processes
from dlrl.storage import samples as samples_lib

ROW = {"reward/mean": 0.25, "rollout/solved": 0.5, "update/score_mean": -1.5,
       "update/grad_norm": 2.0, "update/zero_groups": 0.5, "update/computed": 1,
       "update/entropy": 0.5, "update/nonfinite_in_a_row": 0}


class Log(step_log.StepLog):
  """A log whose updates end at once and that writes nowhere."""

  def __init__(self, steps=9):
    nowhere = types.SimpleNamespace(
      write=lambda *args: None,
      samples=lambda step, samples: self.samples.append(step))
    super().__init__(types.SimpleNamespace(
      steps=steps, log_every=1, sample_every=5, max_nonfinite=5), nowhere, None)
    self.samples = []

  def step(self, number, row):
    self.begin(number, dict(row), None, [samples_lib.Sample("p", "c", 0.0)])
    self.finish()


def answers(*pairs):
  return grading.Answers([p for p, _ in pairs], [t for _, t in pairs], {})


@pytest.mark.parametrize(("changes", "shown"), [
  ({}, "reward 0.25  solved 0.50  elbo -1.50  grad 2.00"),
  ({"update/zero_groups": 1, "update/grad_norm": 0},
   "no gradient: equal rewards  reward 0.25  solved 0.50"),
  # A KL term teaches without any advantage.
  ({"update/zero_groups": 1},
   "reward 0.25  solved 0.50  elbo -1.50  grad 2.00"),
  ({"update/grad_norm": 0},
   "reward 0.25  solved 0.50  elbo -1.50  grad 0"),
  ({"update/zero_groups": 1, "update/grad_norm": 0, "reward/mean": math.nan,
    "rollout/solved": None},
   "no gradient: no reward is known  reward not known  solved not known"),
  ({"eval/items": 4, "eval/solved": 0.125}, "held-out 12.5%"),
  ({"eval/items": 4}, "held-out not known")])
def test_a_line_says_what_is_known_and_why_nothing_is_learned(
    changes, shown, capsys, monkeypatch):
  monkeypatch.setattr(step_log.utilization, "rates", lambda *args: {})
  row = {k: v for k, v in (ROW | changes).items() if v is not None}
  Log().step(1, row)
  said = capsys.readouterr().out.replace("\n" + " " * 12, "  ")  # one line
  assert shown in said


def test_each_completion_is_shown_with_its_own_reward():
  """This process has the rows 1, 3 and 4 of all."""
  found = step_log.samples(
    answers(("p", "a"), ("p", "b"), ("q", "c")),
    processes.Share([1, 3, 4], 5), np.array([0.0, 0.25, 0.5, 0.75, 1.0]))
  assert found == [
    samples_lib.Sample("p", "a", 0.25), samples_lib.Sample("p", "b", 0.75),
    samples_lib.Sample("q", "c", 1.0)]


def test_a_collapse_is_said_once_of_each_kind(capsys, monkeypatch):
  monkeypatch.setattr(step_log.utilization, "rates", lambda *args: {})
  log = Log()
  message = [{"role": "user", "content": "q"}]
  log.watch(answers(("p", "a"), ("p", "b"), ("q", "a"), ("q", "a")))
  log.watch(answers(("p", "a"), ("p", "b")))
  log.watch(answers())
  log.step(1, ROW)
  log.step(2, ROW | {"update/computed": 0, "update/entropy": 0})
  assert "warning" not in capsys.readouterr().out
  for _ in range(2):
    log.watch(answers(("p", "a"), ("p", "a"), (message, "a"), (message, "a")))
  said = capsys.readouterr().out
  assert said.count("the completions of all 2 prompts are identical") == 1
  for _ in range(2):
    log.watch(answers(("p", "a"), ("p", "a"), ("q", "b"), ("q", "b")))
  said = capsys.readouterr().out
  assert said.count("all completions of each prompt are identical") == 1
  log.step(3, ROW | {"update/entropy": 1e-5})
  assert "warning" not in capsys.readouterr().out  # of the same kind
  log = Log()
  for number in (4, 5):
    log.step(number, ROW | {"update/entropy": 1e-5})
  assert capsys.readouterr().out.count("entropy is 1.0e-05 nats") == 1


def test_a_short_run_leaves_a_sample(monkeypatch):
  monkeypatch.setattr(step_log.utilization, "rates", lambda *args: {})
  short, long = Log(2), Log(7)
  for log, steps in ((short, 2), (long, 7)):
    for number in range(1, steps + 1):
      log.step(number, ROW)
  assert (short.samples, long.samples) == ([2], [5, 7])
