"""The job as users start it: output, resuming, refusals."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import runs
import terminals

from dlrl import main
from dlrl import strict
from dlrl import tasks
from dlrl.run import setup as setup_lib
from dlrl.run import summary as summary_lib
from dlrl.storage import checkpoint
from dlrl.storage import metrics


@pytest.fixture(scope="module")
def environment():
  """Of child processes."""
  # In the background, interrupts are ignored, and children inherit that.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  return os.environ | {"PYTHONPATH": str(runs.ROOT)}


@pytest.fixture(scope="module")
def finished(environment, sudoku_dir, tmp_path_factory):
  """A run that nobody disturbed."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  process = runs.start(environment, workdir, sudoku_dir)
  output, _ = process.communicate()
  assert process.returncode == 0, output
  return workdir, output


def test_a_run_leaves_metrics_plots_samples_and_a_summary(finished):
  workdir, output = finished
  rows = metrics.rows(workdir)
  assert [row["step"] for row in rows] == list(range(7))
  assert {"reward/mean", "rollout/solved", "update/score_mean",
          "update/score_std", "update/grad_norm", "update/learning_rate",
          "update/delta", "update/delta_rms", "update/entropy",
          "update/nonfinite_total", "update/zero_groups", "update/computed",
          "reward/std", "reward/units", "reward/units_std", "rollout/length",
          "rollout/steps", "rollout/forwards", "time/rollout", "time/reward",
          "time/update", "speed/rollout_tokens_per_s",
          "speed/update_tokens_per_s"} <= rows[1].keys()
  assert all(row["update/grad_norm"] > 0 for row in rows[1:])
  assert [row["step"] for row in rows if "eval/solved" in row] == [0, 3, 6]
  summary = json.loads((workdir / "summary.json").read_text())
  assert [row["step"] for row in rows if "test/solved" in row] == [0, 6]
  assert summary["before"]["cells"] == rows[0]["test/cells"]
  assert summary["after"]["cells"] == rows[-1]["test/cells"]
  assert rows[0]["test/cells"] != rows[0]["eval/cells"]  # other puzzles
  assert summary["task"] == {
    "name": "sudoku", "version": "1.1.0", "prompt": "bare", "few_shot": 0,
    "data_sha256": tasks.TASKS["sudoku"].checksum}
  assert summary["n_eval"] == 16
  goodput = summary["goodput"]
  assert goodput["restarts"] == 0
  assert 0 < goodput["share"] < 1
  phases = summary["phase_seconds"]
  assert goodput["step_seconds"] == pytest.approx(sum(
    phases[k] for k in ("fine-tuning", "rollout", "reward", "update")))
  assert summary["wall_seconds"] < goodput["running_seconds"]
  assert phases["compile"] > 0  # little, where programs are kept
  assert f"goodput {goodput['share']:.0%}" in output
  assert summary["wall_seconds"] > 0
  assert len(summary["config_fingerprint"]) == 12
  assert (workdir / "curves.png").stat().st_size > 10_000
  assert list((workdir / "tensorboard").iterdir())
  started, = (workdir / "starts.jsonl").read_text().splitlines()
  assert json.loads(started)["software"]["jax"] == jax.__version__
  assert [s["step"] for s in metrics.samples(workdir)] == (
    [2] * 4 + [4] * 4 + [6] * 4)
  assert "on 2 x cpu" in output  # config.mesh.cpu_devices
  assert "ETA" in output
  assert "16 held-out items, 95% intervals" in output


@pytest.mark.parametrize(("config_file", "workdir"), [
  ("configs/bgpo.py", "runs/bgpo"),
  ("configs/bgpo.py:smoke", "runs/bgpo_smoke"),
  ("/home/me/my exp.py:a/b", "runs/my_exp_a_b"),
])
def test_the_default_workdir_is_named_after_config_and_preset(
    config_file, workdir):
  assert main.default_workdir(config_file) == workdir


@pytest.mark.slow
def test_without_a_workdir_the_first_line_says_where_the_run_is(
    finished, environment, sudoku_dir, tmp_path):
  (tmp_path / "runs").mkdir()
  (tmp_path / "runs" / "bgpo_smoke").symlink_to(finished[0])
  config_file = f"{runs.ROOT}/configs/bgpo.py:smoke"
  command = [f"--config={config_file}" if arg.startswith("--config=") else arg
             for arg in runs.command(finished[0], sudoku_dir)
             if not arg.startswith("--workdir")]
  done = subprocess.run(command, cwd=tmp_path, env=environment, text=True,
                        capture_output=True)
  assert done.returncode == 0, done.stderr
  said = terminals.unbroken(done.stdout)
  assert said.splitlines()[0].endswith(
    f"dlrl: {config_file}, workdir runs/bgpo_smoke")
  assert "is finished" in said


@pytest.mark.slow
def test_a_start_reports_wrong_flags_and_settings_together(
    environment, tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.main", "--config=configs/bgpo.py:smoke",
     f"--workdri={tmp_path}", "--config.sede=1", "--config.steps=0",
     "--config.learn.n_mc=x", "--config.eval.split=train"],
    cwd=runs.ROOT, env=environment, text=True, capture_output=True)
  assert done.returncode == 2
  head, *lines = done.stderr.splitlines()
  assert head == "dlrl: 5 problems:"
  for text in ("--workdri=", "did you mean --workdir?",
               "config.sede = '1': unknown key", "config.steps = 0: must be",
               "config.learn.n_mc = 'x': expected int", "config.eval.split"):
    assert any(text in line for line in lines), text


@pytest.mark.slow
def test_a_finished_run_says_so_and_changes_nothing(
    finished, environment, sudoku_dir):
  workdir, _ = finished
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json*")}
  process = runs.start(environment, workdir, sudoku_dir)
  output, _ = process.communicate()
  assert process.returncode == 0
  assert "is finished" in terminals.unbroken(output)
  assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json*")}


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused_with_the_difference(
    finished, environment, sudoku_dir):
  process = runs.start(environment, finished[0], sudoku_dir, "--config.seed=5")
  output, _ = process.communicate()
  assert process.returncode == 2
  assert "config.seed: 0 -> 5" in output
  assert "Traceback" not in output


@pytest.mark.slow
def test_killed_in_every_phase_a_run_ends_as_if_it_had_not_been(
    finished, environment, sudoku_dir, tmp_path):
  workdir = tmp_path / "killed"
  dice = random.Random(0)

  def warm_rows():
    return sum(len(metrics.rows(d)) for d in workdir.glob("warm_start/*"))

  # The moments: fine-tuning, its end, the first and the later RL steps.
  for reached, how in (
    (lambda: warm_rows() >= 1, signal.SIGKILL),
    (lambda: warm_rows() >= 4, signal.SIGKILL),
    (lambda: len(metrics.rows(workdir)) >= 2, signal.SIGKILL),
    (lambda: len(metrics.rows(workdir)) >= 4, signal.SIGINT),
    (lambda: len(metrics.rows(workdir)) >= 5, signal.SIGKILL),
  ):
    process = runs.start(environment, workdir, sudoku_dir)
    while not reached() and process.poll() is None:
      time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.05))
    process.send_signal(how)
    output, _ = process.communicate()
    if how == signal.SIGINT and process.returncode != 0:
      assert process.returncode == 130, output
      assert "the same command continues" in output
  process = runs.start(environment, workdir, sudoku_dir)
  output, _ = process.communicate()
  assert process.returncode == 0, output
  # The last ones may have been at its end when the signal came.
  assert 3 <= summary_lib.read(workdir)["goodput"]["restarts"] <= 5
  assert runs.timeless(workdir) == runs.timeless(finished[0])
  assert metrics.samples(workdir) == metrics.samples(finished[0])
  jax.tree.map(np.testing.assert_array_equal, runs.params_of(workdir),
               runs.params_of(finished[0]))


@pytest.mark.slow
def test_an_interrupt_ends_a_run_with_one_line(
    environment, sudoku_dir, tmp_path):
  process = runs.start(environment, tmp_path / "run", sudoku_dir,
                  "--config.steps=100000", "--config.eval.every=100000")
  while len(metrics.rows(tmp_path / "run")) < 2 and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate()
  assert process.returncode == 130
  assert "interrupted; the same command continues" in output
  assert "Traceback" not in output


@pytest.mark.slow
def test_sigterm_ends_a_run_with_the_code_that_asks_for_another_start(
    environment, sudoku_dir, tmp_path):
  workdir = tmp_path / "run"
  # It has to compile; quickly, since it hardly computes.
  own = {k: v for k, v in environment.items()
         if k != "JAX_COMPILATION_CACHE_DIR"} | {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
  process = runs.start(
    own, workdir, sudoku_dir, "--config.sft.steps=0", *(
      f"--config.{k}=100000" for k in (
        "steps", "eval.every", "checkpoint_every")))
  while len(metrics.rows(workdir)) < 2 and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate()
  assert process.returncode == 42, output
  step = metrics.rows(workdir)[-1]["step"]
  assert checkpoint.steps(workdir / "checkpoints") == [step]
  programs = sorted((workdir / "compiled").iterdir())
  assert (f"dlrl: told to stop: step {step} is saved; the same command "
          "continues") in output
  assert "Traceback" not in output
  # The next start finds all programs that it needs.
  process = runs.start(own, workdir, sudoku_dir, "--config.sft.steps=0", *(
    f"--config.{k}=100000" for k in ("eval.every", "checkpoint_every")),
    f"--config.steps={step + 2}")
  output, _ = process.communicate()
  assert process.returncode == 0, output
  assert metrics.rows(workdir)[-1]["step"] == step + 2
  new = {path.name.rpartition("-")[0] for path in set(
    (workdir / "compiled").iterdir()) - set(programs)}
  assert programs
  assert not new


@pytest.mark.slow
def test_a_run_starts_from_the_parameters_of_another(
    finished, sudoku_dir, tmp_path):
  cfg = runs.tiny(sudoku_dir, init_from=str(finished[0]), steps=1)
  _, rows = runs.run_here(cfg, tmp_path / "run")
  before = {k: v for k, v in rows[0].items() if k.startswith("eval/")}
  after = {k: v for k, v in metrics.rows(finished[0])[-1].items()
           if k.startswith("eval/")}
  assert before == pytest.approx(after)
  with pytest.raises(strict.ConfigError, match=r"init_from.*no checkpoint"):
    runs.run_here(runs.tiny(sudoku_dir, init_from=str(tmp_path)),
                  tmp_path / "none")


@pytest.mark.slow
def test_adapters_are_trained_and_saved_without_what_is_beneath_them(
    finished, sudoku_dir, tmp_path):
  workdir = tmp_path / "run"
  cfg = runs.tiny(sudoku_dir, init_from=str(finished[0]), lora__rank=2, steps=2,
             learn__loss="diffu_grpo", learn__loss_args={"kl_coef": 0.5},
             learn__score_norm="none")
  _, rows = runs.run_here(cfg, workdir)
  before = {k: v for k, v in rows[0].items() if k.startswith("eval/")}
  after = {k: v for k, v in metrics.rows(finished[0])[-1].items()
           if k.startswith("eval/")}
  assert before == pytest.approx(after)  # nothing but the base at first
  assert rows[-1]["update/kl"] > 0
  longer = dataclasses.replace(cfg, steps=3)  # goes on after step 2
  _, want = runs.run_here(longer, tmp_path / "whole")
  assert runs.run_here(longer, workdir)[1][-1] == want[-1]
  setup = setup_lib.make(cfg)
  saved, again = (checkpoint.load_params(
    root / "checkpoints", setup.abstract_trained())
    for root in (workdir, tmp_path / "whole"))
  jax.tree.map(np.testing.assert_array_equal, saved, again)
  fresh = setup.init_policy(setup.load_base())["adapter"]
  assert all(np.any(a != b) for a, b in zip(
    jax.tree.leaves(saved), jax.tree.leaves(fresh), strict=True))
  with pytest.raises(ValueError, match=r"embedding: absent saved"):
    checkpoint.load_params(workdir / "checkpoints", setup.abstract_params())

  # They go on from the same base only, and are none for others by themselves.
  other = dataclasses.replace(
    cfg, init_from="", steps=4, sft=dataclasses.replace(cfg.sft, steps=0))
  with pytest.raises(strict.ConfigError, match="other parameters") as error:
    runs.run_here(other, workdir)
  assert error.value.field == "seed"
  (workdir / "config.json").write_text(json.dumps(strict.to_json(cfg)))
  with pytest.raises(strict.ConfigError, match="only adapters") as error:
    runs.run_here(dataclasses.replace(cfg, init_from=str(workdir)),
                  tmp_path / "x")
  assert error.value.field == "init_from"


@pytest.mark.slow
def test_several_updates_per_rollout_move_the_scores_off_policy(
    finished, sudoku_dir, tmp_path):
  cfg = runs.tiny(sudoku_dir, steps=2, learn__updates_per_rollout=2)
  _, rows = runs.run_here(cfg, tmp_path / "two")
  assert rows[-1]["update/delta"] > 1e-4  # not rounding
  assert runs.timeless(finished[0])[-1]["update/delta"] == 0


def test_the_summary_table_names_every_metric_with_its_interval(finished):
  table = summary_lib.table(summary_lib.read(finished[0]))
  for text in ("solved", "cells", "before", "after", "wall time", "%"):
    assert text in table
