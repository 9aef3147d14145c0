"""`benchmarks.claims`: its runner, with processes that only pretend to run."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import pytest
import runs
from absl import app
from claim_results import row

from benchmarks.claims import __main__ as command
from benchmarks.claims import runner
from benchmarks.claims import store
from benchmarks.claims import table
from benchmarks.claims import timing
from benchmarks.claims import variance_run
from dlrl import strict
from dlrl.run import utilization


def test_first_seeds_of_all_claims_come_before_the_other_seeds(tmp_path):
  a, b = row("a", seeds=(0, 1, 2, 3)), row("b", seeds=(0, 1, 2, 3), steps=1)
  c = dataclasses.replace(row("c", seeds=(0, 1), steps=2), claim="stp")
  d = dataclasses.replace(a, claim="stp")  # the same runs
  queue = runner.pending([a, b, c, d], tmp_path)
  assert queue == [
    a.run(0), b.run(0), a.run(1), b.run(1), a.run(2), b.run(2), c.run(0),
    c.run(1), a.run(3), b.run(3)]
  store.write_one(tmp_path / "runs", a.run(1).name, {})
  assert runner.pending([a, b, c, d], tmp_path) == [
    run for run in queue if run != a.run(1)]


def finish(run, workdirs, solved=0.5):
  """Leaves what a finished run leaves."""
  workdir = run.workdir(workdirs)
  workdir.mkdir(parents=True)
  ends = {"before": {"solved": 0.25, "items": 8.0},
          "after": {"solved": solved, "items": 8.0}}
  (workdir / "summary.json").write_text(json.dumps(ends | {
    "split": "test", "n_eval": 8, "unbounded": [], "steps": 12,
    "wall_seconds": 1.0, "phase_seconds": {}, "task": {
      "name": "sudoku", "version": "1", "prompt": "bare", "few_shot": 0,
      "data_sha256": "0"}}))
  rows = [{"step": 0, "eval/solved": 0.25}, *(
    {"step": i, "reward/mean": i / 12, "time/rollout": 1.0 * i,
     "time/update": 2.0 * i} for i in range(1, 13))]
  rows[-1]["eval/solved"] = 0.75
  (workdir / "metrics.jsonl").write_text(
    "".join(json.dumps(one) + "\n" for one in rows))


def test_a_run_waits_for_its_warm_start_which_is_made_once(tmp_path):
  a, b = row("a").run(0), row("b", steps=1).run(0)
  other = row("a").run(1)
  assert runner.next_of([a, b, other], {}, tmp_path) == a.warm
  assert runner.next_of([a, b, other], {a.warm: None}, tmp_path) == other.warm
  assert runner.next_of([a, b], {a.warm: None}, tmp_path) is None
  # What needs a warm start that failed is left out.
  assert runner.next_of([a, b, other], {}, tmp_path, [a.warm]) == other.warm
  finish(a.warm, tmp_path)
  assert runner.next_of([a, b], {}, tmp_path) == a
  assert runner.next_of([a, b], {a: None}, tmp_path) == b
  assert runner.next_of([a], {}, tmp_path, [a]) is None


@pytest.fixture
def pretended(monkeypatch, tmp_path):
  """Processes that finish their run at once; fails those of seed 1."""
  began = []

  def started(run, workdirs, workdir, **extra):
    began.append(run)
    if run.seed == 1 and run.warm is not None:
      return [sys.executable, "-c", "raise SystemExit('out of puzzles')"]
    finish(run, workdirs)
    return [sys.executable, "-c", "print('done')"]

  monkeypatch.setattr(runner, "_command", started)
  monkeypatch.setattr(runner, "_PAUSE", 0.01)
  return began


@pytest.mark.slow
def test_results_are_stored_and_only_warm_starts_stay(pretended, tmp_path):
  queue = runner.pending([row("a"), row("b", steps=1)], tmp_path)
  failed = runner.run_all(
    queue, tmp_path, tmp_path / "w", jobs=2, seconds=60)
  assert sorted(failed, key=queue.index) == [
    run for run in queue if run.seed == 1]
  assert "out of puzzles" in (
    tmp_path / "w" / f"{failed[0].name}.log").read_text()
  kept = {path.name for path in (tmp_path / "w").iterdir() if path.is_dir()}
  assert kept == {run.warm.name for run in queue}
  stored = store.read(tmp_path)
  assert stored.keys() == {run.name for run in queue if run.seed != 1}
  assert len(pretended) == len(set(pretended)) == 6 + 3
  # Only what failed is tried again.
  assert set(runner.pending(
    [row("a"), row("b", steps=1)], tmp_path)) == set(failed)
  one = stored[queue[0].name]
  assert one["after"] == 0.5 and one["before"] == 0.25 and one["items"] == 8
  assert one["curve"] == [[0, 0.25], [12, 0.75]]
  assert one["rewards"] == [0.4583, 0.9583]  # of steps 1-10 and 11-12
  assert one["settings"] == dict(queue[0].settings)


def test_what_cannot_go_on_is_stored_until_it_finishes(
    pretended, monkeypatch, tmp_path):
  one = row("a", seeds=(1,))
  run, = one.runs
  runner.run_all([run], tmp_path, tmp_path / "w", jobs=1, seconds=60)
  assert store.read_failed(tmp_path) == {run.name: "out of puzzles"}
  assert store.read(tmp_path) == {}
  assert runner.pending([one], tmp_path) == [run]  # and tried again
  # One that was told to stop, or whose workdir another process has.
  for code in (42, 2):
    monkeypatch.setattr(runner, "_command", lambda *_, code=code: [
      sys.executable, "-c", f"raise SystemExit({code})"])
    other = row("b", seeds=(0,), steps=code).run(0)
    finish(other.warm, tmp_path / "w") if code == 42 else None
    assert runner.run_all(
      [other], tmp_path, tmp_path / "w", jobs=1, seconds=60) == [other]
  assert store.read_failed(tmp_path).keys() == {run.name}
  finish(run, tmp_path / "w")
  store.collect(tmp_path, run, run.workdir(tmp_path / "w"))
  assert store.read_failed(tmp_path) == {}
  assert not list(tmp_path.glob("failed/*"))
  # Also if the runner ended before it could remove the file.
  store.write_one(tmp_path / "failed", run.name, {"error": "out of puzzles"})
  assert store.read_failed(tmp_path) == {}


def test_a_run_that_ended_while_no_runner_looked_is_stored(
    monkeypatch, tmp_path):
  run = row("a").run(0)
  finish(run.warm, tmp_path / "w")
  finish(run, tmp_path / "w")  # `dlrl.main` finds it finished
  monkeypatch.setattr(runner, "_command", lambda *_: [
    sys.executable, "-c", "print('the run is finished')"])
  assert not runner.run_all(
    [run], tmp_path, tmp_path / "w", jobs=1, seconds=60)
  assert store.read(tmp_path)[run.name]["hours"] == [0.0, 0.0]
  assert not run.workdir(tmp_path / "w").exists()


def test_a_result_is_written_whole_or_not_at_all(monkeypatch, tmp_path):
  run = row("a").run(0)
  finish(run, tmp_path / "w")
  replace = os.replace

  def killed(*args):
    raise SystemExit(143)

  monkeypatch.setattr(os, "replace", killed)
  with pytest.raises(SystemExit):
    store.collect(tmp_path, run, run.workdir(tmp_path / "w"))
  assert store.read(tmp_path) == {} and not store.has(tmp_path, run)
  monkeypatch.setattr(os, "replace", replace)
  store.collect(tmp_path, run, run.workdir(tmp_path / "w"))
  assert store.read(tmp_path).keys() == {run.name}


def test_rewards_that_are_no_numbers_are_left_out(tmp_path):
  run = row("a").run(0)
  finish(run, tmp_path)
  path = run.workdir(tmp_path) / "metrics.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for one in rows[1:6]:
    one["reward/mean"] = None
  path.write_text("".join(json.dumps(one) + "\n" for one in rows))
  store.collect(tmp_path, run, run.workdir(tmp_path))
  # Of steps 6 to 12.
  assert store.read(tmp_path)[run.name]["rewards"] == [0.75]


def test_no_run_is_begun_once_the_time_is_over(pretended, tmp_path):
  queue = runner.pending([row("a", seeds=(0, 2))], tmp_path)
  assert not runner.run_all(
    queue, tmp_path, tmp_path / "w", jobs=2, seconds=0)
  assert pretended == [] and store.read(tmp_path) == {}


def test_two_runs_at_a_time_that_end_with_the_runner(monkeypatch, tmp_path):
  monkeypatch.setattr(runner, "_command", lambda *_: [
    sys.executable, "-c", "import time; time.sleep(60)"])
  children = []
  popen = subprocess.Popen

  def opened(*args, **kwargs):
    children.append(popen(*args, **kwargs))
    return children[-1]

  monkeypatch.setattr(runner.subprocess, "Popen", opened)

  def interrupted(seconds):
    raise KeyboardInterrupt

  monkeypatch.setattr(runner, "time", types.SimpleNamespace(
    monotonic=lambda: 0.0, sleep=interrupted))
  with pytest.raises(KeyboardInterrupt):
    runner.run_all(
      runner.pending([row("a")], tmp_path), tmp_path, tmp_path / "w", jobs=2,
      seconds=60)
  assert [child.returncode for child in children] == [-signal.SIGTERM] * 2


def test_runs_end_with_a_runner_that_is_killed(tmp_path):
  script = """
import pathlib, sys
from claim_results import row
from benchmarks.claims import runner
runner._command = lambda *_: [
  sys.executable, "-c", "import time; print('began', flush=True); "
  "time.sleep(600)"]
path = pathlib.Path(sys.argv[1])
runner.run_all(
  runner.pending([row("a")], path), path, path / "w", jobs=1, seconds=600)
"""
  killed = subprocess.Popen(
    [sys.executable, "-c", script, tmp_path],
    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
  log = tmp_path / "w" / f"{row('a').run(0).warm.name}.log"
  within(60, lambda: log.exists() and "began" in log.read_text())
  child, = map(int, pathlib.Path(
    f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split())
  killed.kill()
  killed.wait()

  def ended():
    try:
      return pathlib.Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
      return True

  try:
    within(20, ended)
  finally:
    with contextlib.suppress(ProcessLookupError):
      os.kill(child, signal.SIGKILL)


def within(seconds, done):
  """Waits until something is done, or fails."""
  until = time.monotonic() + seconds
  while not done():
    assert time.monotonic() < until
    time.sleep(0.05)


def test_rows_that_results_bring_about_are_run_too(
    pretended, monkeypatch, tmp_path):
  first, second, third = row("a"), row("b", seeds=(0,), steps=1), row(
    "c", seeds=(0,), steps=2)
  monkeypatch.setattr(table, "rows", lambda stored: (
    first, third, *[second] * (len(stored) > 1)))
  monkeypatch.setattr(command.flags, "FLAGS", types.SimpleNamespace(
    only=["draws"], hours=1.0, jobs=2, runs=tmp_path / "w"))
  with pytest.raises(SystemExit, match="1"):  # seed 1 fails, and once
    command.run(tmp_path)
  trained = [run for run in pretended if run.warm]
  assert trained[-1] == second.run(0)
  assert set(trained) == {*first.runs, second.run(0), third.run(0)}
  assert len(trained) == 5
  pretended.clear()
  command.flags.FLAGS.hours = 0.0
  command.run(tmp_path)
  assert pretended == []


def test_a_claim_that_there_is_not_is_named():
  assert command.chosen(["stp"]) == ["stp"]
  assert command.chosen([]) == list(table.CLAIMS)
  with pytest.raises(app.UsageError, match=r"--only=stp,x.*'x'.*draws"):
    command.chosen(["stp", "x"])


def test_times_are_those_of_all_steps_but_the_first(monkeypatch, tmp_path):
  def short(run, workdirs, workdir, **extra):
    assert extra == timing.SHORT
    finish(dataclasses.replace(run), workdir)  # in a folder of the workdir
    (workdir / run.name / "metrics.jsonl").rename(workdir / "metrics.jsonl")

  monkeypatch.setattr(runner, "finish", short)
  monkeypatch.setattr(timing, "flops", lambda workdir: {"update": 1e9})
  found = timing.measure([
    one for one in table.rows_at({}) if one.claim == "draws"], tmp_path)
  # Steps 2 to 12 take as many seconds, and an update twice as long.
  assert found == {f"{n} draw" + "s" * (n > 1): {
    "seconds": {"rollout": [7.0] * 3, "update": [14.0] * 3},
    "flops": {"update": 1e9}} for n in table.NS}
  assert list((tmp_path / "timed").iterdir()) == []  # and so measured anew


def test_what_is_stored_is_not_measured_again(monkeypatch, tmp_path):
  measured = []

  def measure(rows, workdirs):
    measured.append({row.claim for row in rows})
    return {row.label: {} for row in rows}

  monkeypatch.setattr(timing, "measure", measure)
  monkeypatch.setattr(command.flags, "FLAGS", types.SimpleNamespace(
    only=[], runs=tmp_path / "w"))
  command.costs(tmp_path)
  # Neither rows without a learning rate nor sections that compare nothing.
  assert set.union(*measured) == table.CLAIMS.keys() - {
    "methods", "objectives", "objectives_balanced", "example", "harder",
    "tuning", "tuning_others"}
  assert all(len(claims) == 1 for claims in measured)
  measured.clear()
  command.costs(tmp_path)
  assert measured == []
  # A row that was not known then is timed beside the others.
  store.write_one(tmp_path, "cost_cures", {"none": {}})
  command.costs(tmp_path)
  assert measured.pop() == {"cures"} and not measured
  command.flags.FLAGS.only = ["stp", "harder"]
  command.costs(tmp_path)
  assert measured == [{"stp"}, {"harder"}]
  monkeypatch.setattr(variance_run, "measure", lambda workdirs: [1])
  monkeypatch.setattr(variance_run, "measure_pruned", lambda workdirs: [2])
  store.write_one(tmp_path, "variance", [3])
  command.split(tmp_path)
  assert store.read_one(tmp_path, "variance") == [3]
  assert store.read_one(tmp_path, "variance_pruned") == [2]


def test_flops_are_those_of_the_steps_that_were_timed(monkeypatch, tmp_path):
  (tmp_path / "metrics.jsonl").write_text("".join(
    json.dumps({"step": step, "rollout/forwards": forwards,
                "rollout/prompt_width": 32.0, "update/computed": computed,
                "time/update": 1.0}) + "\n"
    for step, forwards, computed in (
      (1, 100.0, 1.0), (2, 8.0, 0.5), (3, 5.0, 0.25))))
  work = utilization.Work(1.0, {32: (7, 10)}, (3, 400))
  monkeypatch.setattr(timing, "counted", lambda workdir: work)
  assert timing.flops(tmp_path) == {
    "rollout": 7 + 10 * 6.5, "update": 3 + 400 * 0.375}
  # Passes of blocks differ.
  monkeypatch.setattr(timing, "counted", lambda workdir: dataclasses.replace(
    work, rollout=None))
  assert timing.flops(tmp_path) == {"update": 153.0}


def test_flops_are_counted_from_the_config_of_a_workdir(tmp_path, sudoku_dir):
  cfg = runs.tiny(sudoku_dir, steps=1)
  (tmp_path / "config.json").write_text(json.dumps(strict.to_json(cfg)))
  found = timing.counted(str(tmp_path))
  # A layer of width 16, 2 heads of 8 and an MLP of 16; 16 rows of 32 + 16
  # tokens, of which a pass computes 16 beyond keys and values.
  keys_values, head = 2 * 48 * 2 * 16 * 16, 2 * 16 * 16 * 40
  rest = 2 * (2 * 16 * 16 + 3 * 16 * 16) + 2 * 2 * 48 * 16
  assert found.rollout == {32: (0, 16 * (keys_values + 16 * rest + head))}
  # Of two draws, forward and backward, and the logits again.
  whole = keys_values + 48 * rest + head
  assert found.update[0] == 0
  assert found.update[1] == pytest.approx(
    2 * 16 * (3 * whole + head), rel=3e-3)
