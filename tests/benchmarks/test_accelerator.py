"""`benchmarks.accelerator`: a dry run, stages that fail, checks that see it."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import results
from benchmarks.accelerator import __main__ as command
from benchmarks.accelerator import arrays
from benchmarks.accelerator import goals
from benchmarks.accelerator import kernels
from benchmarks.accelerator import programs as programs_lib
from benchmarks.accelerator import report
from benchmarks.accelerator import rollouts
from benchmarks.accelerator import rows as rows_lib
from benchmarks.accelerator import runner
from benchmarks.accelerator import scale as scale_lib
from benchmarks.accelerator import steps
from benchmarks.accelerator import torch_side
from benchmarks.accelerator import updates
from dlrl import update
from dlrl.costs import chips
from dlrl.costs.flops import flops
from dlrl.diffusion import token_logps
from dlrl.models import xla_attention
from dlrl.sampling import denoise
from dlrl.sampling import forward

ROOT = pathlib.Path(command.__file__).parents[2]
LONG = 300.0  # seconds; a busy machine starts a process in tens of them


@pytest.fixture
def rows(tmp_path):
  path = tmp_path / "rows.jsonl"
  path.write_text("")
  return rows_lib.Rows(path, "here")


def alone(**options):
  return scale_lib.Scale(
    tuple(jax.devices()[:1]), "cpu", dry=True, **options)


@pytest.mark.slow
def test_a_dry_run_goes_through_all_stages_and_leaves_its_files(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "benchmarks.accelerator", "--dry", "--out",
     str(tmp_path / "new")], cwd=ROOT, text=True, encoding="utf-8",
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
  out = tmp_path / "new"
  assert not done.returncode, done.stdout + (out / "log.txt").read_text()
  result = json.loads((out / "accelerator.json").read_text())
  assert result["dry"] and result["command"] == (
    f"python -m benchmarks.accelerator --dry --out {out}")
  found = result["rows"]
  assert found == rows_lib.read(out / "accelerator_rows.jsonl")
  assert (out / "accelerator.png").read_bytes().startswith(b"\x89PNG")
  text = (out / "accelerator.md").read_text()
  assert text.strip() in done.stdout and "numbers mean nothing" in text
  ended = [row["stage"] for row in found if row["what"] == runner.END]
  assert ended == [stage.name for stage in command.STAGES]
  by_name = {row["what"]: row for row in found}
  for name in (rollouts.name_of(mode) for mode in rollouts.MODES):
    assert by_name[name]["tokens_per_s"] > 0 and by_name[name]["tflops"] > 0
  # Random weights are never confident: a threshold commits one token a pass.
  assert by_name["rollout, dual cache, threshold 0.9"]["passes"] == 16
  assert by_name["rollout, dual cache"]["passes"] == 8
  assert by_name[goals.SOME]["loss"] == pytest.approx(
    by_name[goals.FEW]["loss"], abs=1)
  assert all(row["ok"] for row in found if "ok" in row)
  assert sum("ok" in row for row in found) == 9
  if importlib.util.find_spec("torch") is None:
    assert "* torch: PyTorch: this Python has no module torch" in text
  for goal in goals.of(found):
    assert f"| {goal.what} |" in text


def fake_stages(tmp_path, monkeypatch, **bodies):
  """Modules whose `run` has these bodies; returns a maker of stages."""
  for name, body in bodies.items():
    (tmp_path / f"fake_{name}.py").write_text(
      f"import os, signal, subprocess, sys, time\ndef run(rows, dry):\n  {body}"
      "\n")
  paths = [str(tmp_path), *sys.path]
  monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
  return lambda name, seconds=LONG: runner.Stage(name, f"fake_{name}", seconds)


def alive(pid):
  try:
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
  except (FileNotFoundError, ProcessLookupError):
    return False
  return "(zombie)" not in text


def of_stage(found, name):
  return {row["what"]: row for row in found if row["stage"] == name}


def test_a_stage_that_dies_leaves_its_rows_and_the_other_stages(
    tmp_path, monkeypatch):
  stage = fake_stages(
    tmp_path, monkeypatch,
    dies="rows.put('a', x=1); os.kill(os.getpid(), signal.SIGSEGV)",
    raises="rows.put('b', x=2); print('why' * 3); 1 / 0",
    works="rows.put('c', dry=dry, left=rows.left)")
  seen = []
  path = tmp_path / "rows.jsonl"
  found = runner.run(
    [stage("dies"), stage("raises"), stage("works")], path, 3 * LONG, dry=True,
    after=lambda: seen.append(len(rows_lib.read(path))))
  dies, raises, works = (
    of_stage(found, name) for name in ("dies", "raises", "works"))
  assert dies["a"]["x"] == 1
  assert "SIGSEGV" in dies[runner.END]["failed"]
  assert raises["b"]["x"] == 2
  assert "division by zero" in raises["all that was left"]["failed"]
  assert "exit code 1" in raises[runner.END]["failed"]
  assert works["c"]["dry"] and 0 < works["c"]["left"] <= LONG
  assert "failed" not in works[runner.END]
  assert seen == [2, 5, 7]
  assert "whywhywhy" in (tmp_path / "log.txt").read_text()
  assert [line.partition(":")[0] for line in report.failures(found)] == [
    "dies", "raises", "raises"]


@pytest.mark.slow
def test_a_stage_that_hangs_is_stopped_at_its_limit(tmp_path, monkeypatch):
  stage = fake_stages(
    tmp_path, monkeypatch,
    hangs="child = subprocess.Popen(['sleep', '1000']); "
    "rows.put('child', pid=child.pid); time.sleep(1000)")
  for limit in (4.0, 20.0, 100.0):  # until it has begun by then
    found = runner.run(
      [stage("hangs", limit)], tmp_path / "rows.jsonl", 2 * LONG)
    if "child" in of_stage(found, "hangs"):
      break
  end = of_stage(found, "hangs")[runner.END]
  assert end["failed"] == f"stopped at its limit of {limit:.0f} s"
  assert limit <= end["seconds"] < limit + 60
  # So is what it started.
  pid = of_stage(found, "hangs")["child"]["pid"]
  until = time.monotonic() + 60
  while alive(pid):
    assert time.monotonic() < until
    time.sleep(0.1)


def test_a_stage_without_time_is_skipped_and_named(tmp_path):
  stages = [runner.Stage(name, "no_such_module", 60) for name in "ab"]
  found = runner.run(stages, tmp_path / "rows.jsonl", runner.LEAST - 1)
  assert [row["stage"] for row in found] == ["a", "b"]
  assert report.skipped(found) == [
    f"{name}: the stage: 14 s of 14 s were left" for name in "ab"]
  assert not report.failures(found)


def test_a_stage_gets_no_more_than_what_is_left(tmp_path, monkeypatch):
  stage = fake_stages(tmp_path, monkeypatch, tells="rows.put('a', t=rows.left)")
  (row, _) = runner.run(
    [stage("tells", 10 * LONG)], tmp_path / "rows.jsonl", LONG)
  assert row["t"] < LONG


def test_the_accelerator_keeps_the_cpu_beside_it(monkeypatch):
  stage = runner.Stage("a", "b", 1)
  for named, no_jax, want in (
      ("cuda", False, "cuda,cpu"), ("cuda", True, "cpu"), (None, False, None)):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    if named:
      monkeypatch.setenv("JAX_PLATFORMS", named)
    one = runner.Stage("a", "b", 1, no_jax=no_jax)
    assert runner._environment(one, False).get("JAX_PLATFORMS") == want
  assert runner._environment(stage, True)["JAX_PLATFORMS"] == "cpu"


def test_parts_of_a_stage_survive_each_other(rows):
  assert rows.attempt("good", lambda x: x + 1, 2) == 3
  assert rows.attempt("bad", lambda: {}["key"]) is None
  late = rows_lib.Rows(rows.path, "late", until=0.0)
  assert late.attempt("long", pytest.fail, needs=5) is None
  with rows.path.open("a") as f:
    f.write('{"stage": "here", "wh')  # as its process was stopped
  bad, long = rows_lib.read(rows.path)
  assert bad == {"stage": "here", "what": "bad", "failed": "KeyError: 'key'"}
  assert long["stage"] == "late" and "about 5 s" in long["skipped"]


@pytest.mark.parametrize("error, ok", [
  (0.1, True), (0.11, False), (float("nan"), False)])
def test_a_check_is_of_every_error(rows, error, ok):
  assert rows.check("a", 0.1, x=0.0, y=error)["ok"] == ok


def test_a_program_that_does_not_compile_leaves_the_others(rows):
  scale = alone()
  shape = jax.ShapeDtypeStruct((2,), "float32")

  def bad(x):
    raise ValueError("no such program")

  found = dict(programs_lib.compiled({
    name: programs_lib.Program(jax.jit(fn), (shape,), scale.alone)
    for name, fn in (("bad", bad), ("good", lambda x: x + 1))}, rows))
  assert list(found) == ["good"]
  assert found["good"](jnp.zeros(2)).tolist() == [1, 1]
  (row,) = rows_lib.read(rows.path)
  assert row["what"] == "bad" and "no such program" in row["failed"]


def wrong(found):
  return {row["what"] for row in found if row.get("ok") is False}


def broken_attention(monkeypatch):
  right = xla_attention.attend
  monkeypatch.setattr(xla_attention, "attend", lambda q, k, v, seen: right(
    q, k, 1.03 * v, seen))
  return {"attention xla, grouped heads", "attention xla, part of odd rows"}


def broken_lengths(monkeypatch):
  right = xla_attention.attend
  monkeypatch.setattr(xla_attention, "attend", lambda q, k, v, seen: right(
    q, k, v, jnp.ones_like(seen)))
  return {"attention xla, grouped heads", "attention xla, part of odd rows",
          "attention xla, grouped heads, gradients of padding"}


def broken_logps(monkeypatch):
  right = token_logps.token_logps

  def shifted(*args, **options):
    found = right(*args, **options)
    return found._replace(logps=1.02 * found.logps)

  monkeypatch.setattr(token_logps, "token_logps", shifted)
  return {"log-probs of 512 tokens", "log-probs of 512 tokens, gradients"}


@pytest.mark.parametrize(
  "break_it", [broken_attention, broken_lengths, broken_logps])
def test_a_wrong_kernel_is_seen(rows, monkeypatch, break_it):
  monkeypatch.setattr(scale_lib, "present", lambda *_, **__: alone())
  want = break_it(monkeypatch)
  kernels.run(rows, dry=True)
  found = rows_lib.read(rows.path)
  assert wrong(found) == want
  assert {line.partition(": ")[2].partition(":")[0]
          for line in report.failures(found)} == want
  assert "**wrong**" in report.table(found, dry=False)


@pytest.mark.slow
def test_wrong_samplers_and_updates_are_seen(rows, monkeypatch, unoptimized):
  monkeypatch.setattr(scale_lib, "present", lambda *_, **__: alone())
  logits, grads_of = forward.Forward.logits, update.batch_grads

  def damped(*args):  # those of every second token; none becomes likelier
    found = logits(*args)
    return found * (1 - 0.5 * (jnp.arange(found.shape[-1]) % 2))[None, None]

  monkeypatch.setattr(forward.Forward, "logits", damped)
  calls = iter(range(1, 100))

  def noisy(*args):
    metrics, grads = grads_of(*args)
    noise = jax.pure_callback(
      lambda: np.float32(0.01 * next(calls)),
      jax.ShapeDtypeStruct((), "float32"))
    return metrics, grads | {"embed": jax.tree.map(
      lambda x: x * (1 + noise), grads["embed"])}

  monkeypatch.setattr(update, "batch_grads", noisy)
  steps.run(rows, dry=True)
  found = rows_lib.read(rows.path)
  # The sampler with a threshold is compared with itself on the CPU.
  assert wrong(found) == {"sampler, exact", steps.UPDATE, steps.BITS}
  assert not any("failed" in row for row in found)


@pytest.mark.parametrize("mode", rollouts.MODES)
def test_flops_of_a_rollout_are_those_of_all_its_passes(mode):
  setup = rollouts.setups(alone())[rollouts.name_of(mode)]
  sampler = setup.cfg.rollout.sampler
  least, first, each = rollouts.work(setup)
  passes = sampler.gen_length if sampler.threshold else sampler.steps
  with jax.set_mesh(setup.mesh):
    want = flops(
      lambda *args: rollouts.decode(setup, scale_lib.plain(setup), *args),
      setup.abstract_params(), arrays.batch_shapes(setup),
      while_trips=denoise.most_trips(sampler, 2))
  outside = 0 if least else want - passes * each  # of what is no pass
  assert first + (passes - least) * each + outside == pytest.approx(want)
  assert outside < 0.01 * want


def test_flops_of_an_update_are_those_of_its_draws():
  few, some = list(updates.setups(alone()).values())
  assert [s.cfg.learn.n_mc for s in (few, some)] == [2, 16]
  assert updates.work_of_draw(few) == updates.work_of_draw(some)


def test_without_torch_a_line_says_so(rows, monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  torch_side.run(rows, dry=False)
  (row,) = rows_lib.read(rows.path)
  assert row["skipped"] == "this Python has no module torch"


H100 = "NVIDIA H100 80GB HBM3"
MEASURED = [
  {"stage": "a", "what": "device", "kind": H100, "count": 2},
  {"stage": "u", "what": goals.FEW, "peak_gib": 20.0, "seconds": 1.0},
  {"stage": "u", "what": goals.SOME, "mfu": 0.6, "rows": 16, "draws": 16,
   "devices": 2, "seconds": 4.0, "trained": "adapters", "tflops": 593.0},
  {"stage": "u", "what": goals.MANY, "peak_gib": 20.5, "seconds": 9.0},
  {"stage": "r", "what": "rollout, exact", "tokens_per_s": 300.0, "devices": 2,
   "seconds": 1.0},
  {"stage": "t", "what": torch_side.SAMPLER, "tokens_per_s": 120.0,
   "seconds": 1.0},
  {"stage": "t", "what": torch_side.UPDATE, "rows": 8, "seconds": 0.5},
  {"stage": "b", "what": "rollout, SDAR-4B", "tokens_per_s": 2000.0,
   "seconds": 1.0},
]


def test_goals_are_of_one_device_and_of_equal_work():
  mfu, growth, rollout, learning, blocks = goals.of(MEASURED)
  assert (mfu.found, mfu.wanted, mfu.met) == (0.6, 0.5, True)
  assert (growth.found, growth.met) == (20.5 / 20, False)  # at most 1.02
  assert (rollout.found, rollout.met) == (300 / 2 / 120, False)
  # 16 rows of 16 draws in 4 s on two devices, and 8 rows of a draw in 0.5 s.
  assert (learning.found, learning.met) == (32 / 16, True)
  # 3.35 TB/s of an H200's 4.8.
  assert blocks.wanted == pytest.approx(3700 * 3350 / 4800)
  assert not blocks.met


def test_goals_without_a_measurement_are_not_met_or_missed():
  assert [goal.met for goal in goals.of([])] == [None] * 5
  changed = [row | {"trained": "all"} if row["what"] == goals.SOME else row
             for row in MEASURED]
  assert goals.of(changed)[3].found is None  # PyTorch trains adapters


def test_the_table_has_goals_and_speeds():
  lines = report.table(MEASURED, dry=False).splitlines()
  assert lines[0] == f"# dlrl on 2 x {H100}"
  assert [line.rpartition("| ")[2] for line in lines if " at " in line] == [
    "met |", "missed |", "missed |", "met |", "missed |"]
  assert (
    "| update, 16 draws | 16 | - | 4 | 593 | 60.0% | - | - | - | - |") in lines
  assert chips.find(H100)


def test_a_figure_of_nothing_says_so():
  fig = report.draw([], dry=False)
  assert [ax.texts[0].get_text() for ax in fig.axes] == ["not measured"] * 4
  assert "unknown device" in fig.get_suptitle()
  shown = report.draw(MEASURED, dry=False).axes[1]
  assert sorted(bar.get_width() for bar in shown.patches) == [20.0, 20.5]


@pytest.mark.parametrize("row, code", [
  ({"ok": False}, 1), ({"failed": "x"}, 1), ({"skipped": "x"}, None)])
def test_the_exit_code_tells_of_failures(tmp_path, monkeypatch, row, code):
  for name, value in (("OUT", tmp_path), ("PLOT_ONLY", True)):
    monkeypatch.setattr(results, name, types.SimpleNamespace(value=value))
  (tmp_path / "accelerator.json").write_text(json.dumps({
    "dry": False, "rows": [*MEASURED, {"stage": "a", "what": "b"} | row]}))
  if code is None:
    command.main([])
  else:
    with pytest.raises(SystemExit) as e:
      command.main([])
    assert e.value.code == code
  assert (tmp_path / "accelerator.png").exists()


def test_the_stages_fit_into_eight_minutes():
  assert command.TOTAL <= 480
  # Only the last can be left out for those before it.
  assert sum(s.seconds for s in command.STAGES[:-2]) <= command.TOTAL
