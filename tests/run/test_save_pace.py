"""The warning about checkpoints that take longer than the steps to the next."""

import re
import time
import types

import jax.numpy as jnp
import pytest
from checkpoints import batches

from dlrl.run import save_pace
from dlrl.run import session
from dlrl.storage import checkpoint


def saves(times, every=4, field="checkpoint_every"):
  """Saves at (step, seconds): asked for then, and the one before done then."""
  now = [0.0]
  pace = save_pace.SavePace(field, every, lambda: now[0])
  for step, asked, done in times:
    now[0] = asked
    pace.wait(step, lambda done=done: now.__setitem__(0, done))


def test_a_save_that_ends_after_the_next_is_due_is_told_once(capsys):
  # The steps after a save begin when the wait before it has ended.
  saves([(4, 8, 10), (8, 20, 45), (12, 55, 90)])
  said = " ".join(capsys.readouterr().out.split())
  assert said.count("writing") == 1
  assert said.endswith(
    "writing the checkpoint of step 4 took 35.0 s and the 4 steps after it "
    "10.0 s, so the run waited 25.0 s for it, and will again: set "
    "config.checkpoint_every = 14 or more")


@pytest.mark.parametrize("times", [
  [(4, 10, 10), (8, 20, 20), (12, 30, 30.9)],  # hardly late
  [(4, 10, 10), (6, 12, 45)],  # told to stop, or the last step
  [(4, 10, 40)],  # there was none before
])
def test_saves_in_time_and_those_at_the_end_are_not_told(times, capsys):
  saves(times)
  assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_a_session_times_its_saves(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(save_pace, "_PATIENCE", 0.2)
  saver = checkpoint.Checkpoints(tmp_path)
  wait = saver.wait
  monkeypatch.setattr(saver, "wait", lambda: (time.sleep(0.3), wait()))
  nothing = types.SimpleNamespace(
    begin=lambda work: None, flush=lambda: None, totals={}, checksum="",
    id="")
  run = session.Session(
    notice=None, dog=nothing, window=None, checkpoints=saver, writer=nothing,
    batches=batches(), base=nothing, data=nothing, clock=nothing, steps="step",
    pace=save_pace.SavePace("sft.checkpoint_every", 2))
  state = types.SimpleNamespace(saved={"params": {"w": jnp.ones(2)}})
  for step in (2, 4, 6):
    run.save(step, state, stops=False)
  saver.close()
  assert len(re.findall(
    r"checkpoint of step 2 took .* set config\.sft\.checkpoint_every = \d+",
    " ".join(capsys.readouterr().out.split()))) == 1
