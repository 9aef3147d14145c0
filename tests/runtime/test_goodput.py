"""Time that counts, over restarts, on files with the test's own times."""

import json
import os
import time

import jax
import jax.numpy as jnp

from dlrl.runtime import clock
from dlrl.runtime import goodput


def seen(path, when):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.touch()
  os.utime(path, (when, when))


def test_lost_steps_and_pauses_do_not_count(tmp_path, monkeypatch):
  at = {"now": 1000.0}
  monkeypatch.setattr(time, "time", lambda: at["now"])
  goodput.start(tmp_path)
  seen(tmp_path / "starts.jsonl", 1000)
  seen(tmp_path / "warm_start" / "x" / "metrics.jsonl", 1050)
  at["now"] = 1100.0  # 50 s nobody was there
  goodput.start(tmp_path)
  seen(tmp_path / "starts.jsonl", 1100)
  seen(tmp_path / "metrics.jsonl", 1180)
  at["now"] = 1200.0
  goodput.start(tmp_path)
  at["now"] = 1300.0
  seconds = {"fine-tuning": 30.0, "rollout": 60.0, "reward": 10.0,
             "update": 40.0, "evaluation": 20.0, "compile": 25.0}
  found = goodput.read(tmp_path, seconds)
  assert found == {
    "restarts": 2, "running_seconds": 50 + 80 + 100, "idle_seconds": 50 + 20,
    "step_seconds": 140, "share": 140 / 230}
  assert goodput.line(found, seconds) == (
    "goodput 61%: 140 s of steps in 230 s; evaluation 20 s, compile 25 s, "
    "other 45 s; 2 restarts, 70 s between them")


def test_a_process_that_wrote_nothing_ran_for_no_time(tmp_path, monkeypatch):
  monkeypatch.setattr(time, "time", lambda: 2000.0)
  seen(tmp_path / "metrics.jsonl", 500)  # copied from elsewhere
  goodput.start(tmp_path)
  seen(tmp_path / "starts.jsonl", 600)
  monkeypatch.setattr(time, "time", lambda: 2010.0)
  goodput.start(tmp_path)
  starts = [json.loads(line) for line in
            (tmp_path / "starts.jsonl").read_text().splitlines()]
  assert starts == [{"start": 2000.0, "last_seen": 500.0},
                    {"start": 2010.0, "last_seen": 600.0}]
  monkeypatch.setattr(time, "time", lambda: 2030.0)
  found = goodput.read(tmp_path, {"update": 5.0})
  assert (found["running_seconds"], found["idle_seconds"]) == (20, 10)


def test_compiling_is_a_phase_and_part_of_no_other():
  totals = clock.Clock({"compile": 100.0, "update": 1.0})
  began = clock.now()
  with totals.phase("update"):
    time.sleep(0.05)
    jax.monitoring.record_event_duration_secs(
      "/jax/core/compile/backend_compile_duration", 1000.0)
  assert totals.totals["compile"] == 1100
  assert -1000 < totals.totals["update"] - 1 < -900  # it is a clock's time
  assert clock.now() - began < -900

  totals = clock.Clock()
  jax.jit(lambda x: jnp.sin(x) + 0.123)(jnp.ones(7)).block_until_ready()
  assert totals.totals["compile"] > 0
