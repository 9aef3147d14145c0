"""The job as users start it, and the promises about its loop."""

import collections
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from configs import bgpo
from dlrl import config_check
from dlrl import data
from dlrl import journal
from dlrl import losses
from dlrl import report
from dlrl import scoring
from dlrl import setup as setup_lib
from dlrl import tasks
from dlrl import train
from dlrl import update
from dlrl.runtime import checkpoint
from dlrl.runtime import metrics
from dlrl.runtime import strict

ROOT = pathlib.Path(__file__).parents[1]
TINY = {
  "model.width": 16, "model.layers": 1, "model.heads": 2, "model.kv_heads": 2,
  "model.head_dim": 8, "model.mlp_width": 16, "sft.steps": 120,
  "sft.log_every": 30, "sft.checkpoint_every": 40, "sft.batch_size": 16,
  "steps": 6, "checkpoint_every": 2, "rollout.rewards": ("units",),
  "rollout.prompts": 4, "rollout.group_size": 4, "learn.n_mc": 2,
  "learn.micro_batch": 8, "eval.size": 16,
  "eval.batch_size": 16, "eval.every": 3, "sample_every": 2,
  # A program that does not depend on the number of steps is compiled once.
  "learn.optimizer.schedule": "constant", "learn.optimizer.warmup_steps": 0,
}


def tiny(data_dir, **changes):
  cfg = bgpo.get_config("smoke")
  changes = {k.replace("__", "."): v for k, v in changes.items()}
  cfg.learn.loss_args = changes.pop("learn.loss_args", {})
  cfg.update_from_flattened_dict(
    TINY | changes | {"task.data_dir": data_dir})
  return config_check.from_dict(cfg)


def run_here(cfg, workdir):
  """The job inside this process; its rows, without times."""
  workdir.mkdir(exist_ok=True)
  setup = setup_lib.make(cfg)
  with jax.set_mesh(setup.mesh):
    seconds = train.train(setup, workdir)
  return seconds, timeless(workdir)


def timeless(workdir):
  return [{k: v for k, v in row.items() if not k.startswith("time/")}
          for row in metrics.rows(workdir)]


def command(workdir, data_dir, *more):
  flags = [f"--config.{k}={v}" for k, v in TINY.items()]
  return [sys.executable, "-m", "dlrl.main", "--config=configs/bgpo.py:smoke",
          f"--workdir={workdir}", f"--config.task.data_dir={data_dir}",
          *flags, *more]


@pytest.fixture(scope="module")
def environment(compiled_programs):
  """Of child processes."""
  # In the background, interrupts are ignored, and children inherit that.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  return os.environ | {
    "PYTHONPATH": str(ROOT),
    "JAX_COMPILATION_CACHE_DIR": str(compiled_programs),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}


def start(environment, *args):
  return subprocess.Popen(
    command(*args), cwd=ROOT, env=environment, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def finished(environment, sudoku_dir, tmp_path_factory):
  """A run that nobody disturbed."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  process = start(environment, workdir, sudoku_dir)
  output, _ = process.communicate()
  assert process.returncode == 0, output
  return workdir, output


def params_of(workdir):
  """Every array of the newest checkpoint, as saved."""
  cfg = json.loads((workdir / "config.json").read_text())
  setup = setup_lib.make(strict.build(config_check.config.Config, cfg))
  return checkpoint.load_params(
    workdir / "checkpoints", setup.abstract_params())


def test_a_run_leaves_metrics_plots_samples_and_a_summary(finished):
  workdir, output = finished
  rows = metrics.rows(workdir)
  assert [row["step"] for row in rows] == list(range(7))
  assert {"reward/mean", "rollout/solved", "update/score_mean",
          "update/score_std", "update/grad_norm", "time/rollout",
          } <= rows[1].keys()
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
  assert summary["wall_seconds"] > 0
  assert len(summary["config_fingerprint"]) == 12
  assert (workdir / "curves.png").stat().st_size > 10_000
  assert list((workdir / "tensorboard").iterdir())
  assert [s["step"] for s in metrics.samples(workdir)] == [2, 4, 6]
  assert "on 2 x cpu" in output  # config.mesh.cpu_devices
  assert "ETA" in output
  assert "16 held-out items, 95% intervals" in output


def test_a_finished_run_says_so_and_changes_nothing(
    finished, environment, sudoku_dir):
  workdir, _ = finished
  before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json*")}
  process = start(environment, workdir, sudoku_dir)
  output, _ = process.communicate()
  assert process.returncode == 0
  assert "is finished" in output
  assert before == {p: p.stat().st_mtime_ns for p in workdir.rglob("*.json*")}


def test_a_workdir_of_another_config_is_refused_with_the_difference(
    finished, environment, sudoku_dir):
  process = start(environment, finished[0], sudoku_dir, "--config.seed=5")
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
    process = start(environment, workdir, sudoku_dir)
    while not reached() and process.poll() is None:
      time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.05))
    process.send_signal(how)
    output, _ = process.communicate()
    if how == signal.SIGINT and process.returncode != 0:
      assert process.returncode == 130, output
      assert "the same command continues" in output
  process = start(environment, workdir, sudoku_dir)
  output, _ = process.communicate()
  assert process.returncode == 0, output
  assert timeless(workdir) == timeless(finished[0])
  assert metrics.samples(workdir) == metrics.samples(finished[0])
  jax.tree.map(np.testing.assert_array_equal, params_of(workdir),
               params_of(finished[0]))


def test_an_interrupt_ends_a_run_with_one_line(
    environment, sudoku_dir, tmp_path):
  process = start(environment, tmp_path / "run", sudoku_dir,
                  "--config.steps=100000", "--config.eval.every=100000")
  while len(metrics.rows(tmp_path / "run")) < 2 and process.poll() is None:
    time.sleep(0.01)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate()
  assert process.returncode == 130
  assert "interrupted; the same command continues" in output
  assert "Traceback" not in output


@pytest.mark.parametrize("changes", [
  {}, dict(learn__loss="espo", learn__loss_args={"kl_coef": 0.5},
           learn__score_norm="none"),
  dict(rollout__prior__memory=0.5, rollout__prior__min_reward=0.0)],
  ids=["bgpo", "espo with a reference", "stp with a memory"])
def test_what_followed_the_last_checkpoint_is_not_logged_twice(
    changes, sudoku_dir, tmp_path, monkeypatch):
  few_prompts(monkeypatch)
  cfg = tiny(sudoku_dir, steps=4, **changes)
  _, want = run_here(cfg, tmp_path / "whole")
  # Every prompt comes back in every step, and is remembered from the second on.
  assert [row["rollout/free"] for row in want[1:]] == (
    [1, 0.5, 0.5, 0.5] if cfg.rollout.prior.memory else [1] * 4)
  real = journal.Journal.begin

  def begin(self, step, *args):
    if step == 4:  # step 3 is logged, step 2 was the last one saved
      raise KeyboardInterrupt
    real(self, step, *args)

  with monkeypatch.context() as patch:
    patch.setattr(journal.Journal, "begin", begin)
    with pytest.raises(KeyboardInterrupt):
      run_here(cfg, tmp_path / "cut")
  assert [row["step"] for row in timeless(tmp_path / "cut")] == [0, 1, 2, 3]
  assert run_here(cfg, tmp_path / "cut")[1] == want


def test_pruned_rollouts_are_shorter_and_keep_the_template(
    sudoku_dir, tmp_path, monkeypatch):
  batches = []
  real = update.make

  def make(*args):
    step = real(*args)

    def learn(state, batch):
      jax.debug.callback(lambda *x: batches.append(x), batch.prompt,
                         batch.completion, batch.maskable, batch.trace)
      return step(state, batch)

    return learn

  monkeypatch.setattr(update, "make", make)
  cfg = tiny(sudoku_dir, steps=2, rollout__prior__template=1.0,
             rollout__sampler__fill_after=0.5)
  _, rows = run_here(cfg, tmp_path / "run")
  jax.effects_barrier()
  assert len(batches) == 2
  for row, (prompt, completion, free, trace) in zip(
      rows[1:], batches, strict=True):
    digits = prompt[:, 16:]  # after the names of the cells
    blank = digits == digits.min()  # the id of 0
    np.testing.assert_array_equal(free, blank)
    np.testing.assert_array_equal(completion[~free], digits[~blank])
    np.testing.assert_array_equal(trace == -1, ~free)
    assert row["rollout/free"] == free.mean()
    # Half of 8 to 12 tokens, two per step, and then the rest at once.
    assert row["rollout/forwards"] == -(-free.sum(1).max() // 4) + 1


def few_prompts(monkeypatch, rows=4):
  """Rollouts are of no other than `rows` puzzles."""
  task = tasks.TASKS["sudoku"]

  def load(*args, field):
    found = task.load(*args, field=field)
    # Fine-tuning has all: Grain takes long to shuffle a handful.
    return found[:rows] if field == "rollout.difficulty" else found

  monkeypatch.setitem(
    tasks.TASKS, "sudoku", dataclasses.replace(task, load=load))


def test_what_no_reward_is_known_of_teaches_nothing_and_is_not_remembered(
    sudoku_dir, tmp_path, monkeypatch):
  few_prompts(monkeypatch)
  unknown = dataclasses.replace(tasks.TASKS["sudoku"], rewards={
    "units": lambda prompts, completions, **columns: [None] * len(completions)})
  monkeypatch.setitem(tasks.TASKS, "sudoku", unknown)
  cfg = tiny(sudoku_dir, steps=2, rollout__prior__memory=0.5,
             rollout__prior__min_reward=0.0)
  _, rows = run_here(cfg, tmp_path / "run")
  for row in rows[1:]:
    assert row["reward/infrastructure_errors"] == 16
    assert row["reward/mean"] is None
    assert row["update/grad_norm"] == 0
    assert row["update/zero_groups"] == 1
    assert row["rollout/free"] == 1  # of a prompt that comes back


def test_a_mixture_is_trained_and_evaluated_by_task(sudoku_dir, tmp_path):
  cfg = tiny(
    sudoku_dir, steps=1, task__name="sudoku+countdown_digits",
    task__weights=(1.0, 3.0), sft__difficulty=(1, 6),
    rollout__difficulty=(1, 12), eval__difficulty=(1, 12), eval__split="test",
    rollout__rewards=("solved", "test_train:shorter"),
    rollout__reward_weights=(1.0, 0.1))
  _, rows = run_here(cfg, tmp_path / "run")
  step = rows[-1]
  for prefix in ("rollout", "eval", "test"):
    assert {"solved", "sudoku/solved", "sudoku/cells", "countdown_digits/easy",
            } <= {key.removeprefix(f"{prefix}/") for key in step}
  assert step["reward/mean"] == pytest.approx(
    step["reward/solved"] + 0.1 * step["reward/shorter"])
  assert step["reward/shorter"] < 0


def shorter(prompts, completions, *, task, **columns):
  assert collections.Counter(task) == {"sudoku": 4, "countdown_digits": 12}
  return [-float(len(text)) for text in completions]


def test_the_same_seed_gives_the_same_numbers_and_another_one_does_not(
    sudoku_dir, tmp_path):
  cfg = tiny(sudoku_dir, steps=2)
  _, first = run_here(cfg, tmp_path / "a")
  _, again = run_here(cfg, tmp_path / "b")
  cfg = tiny(sudoku_dir, steps=2, seed=1)
  _, other = run_here(cfg, tmp_path / "c")
  assert first == again
  assert first != other


def test_several_updates_per_rollout_move_the_scores_off_policy(
    finished, sudoku_dir, tmp_path):
  cfg = tiny(sudoku_dir, steps=2, learn__updates_per_rollout=2)
  _, rows = run_here(cfg, tmp_path / "two")
  assert rows[-1]["update/delta"] > 1e-4  # not rounding
  assert timeless(finished[0])[-1]["update/delta"] == 0


def test_nothing_is_compiled_after_the_first_step(
    sudoku_dir, tmp_path, monkeypatch):
  compiled, at_step = [], []
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **kw: compiled.append(name)
    if name.endswith("backend_compile_duration") else None)
  real = data.rl_batches

  def counting(*args, **kwargs):
    batches = real(*args, **kwargs)
    step = type(batches).__next__

    class Counting:
      def __getattr__(self, name):
        return getattr(batches, name)

      def __next__(self):
        at_step.append(len(compiled))
        return step(batches)

    return Counting()

  monkeypatch.setattr(data, "rl_batches", counting)
  monkeypatch.setattr(
    checkpoint.Checkpoints, "save", lambda *args, **kwargs: None)
  run_here(tiny(sudoku_dir, eval__every=2), tmp_path / "run")
  assert len(at_step) == 6
  assert at_step[1] > at_step[0] > 0  # the first step compiles
  assert set(at_step[2:]) == {at_step[2]}
  assert len(compiled) == at_step[2]


def test_a_step_reads_its_tokens_and_the_metrics_of_the_step_before(
    sudoku_dir, tmp_path, monkeypatch):
  reads, hidden, inside = [], [], []
  real_get, real_begin = jax.device_get, journal.Journal.begin
  array = type(jax.numpy.zeros(1))
  real_value = array._value  # behind float(), int(), bool() and device_get

  def get(tree):
    reads.append(jax.tree.structure(tree).num_leaves)
    inside.append(True)
    try:
      return real_get(tree)
    finally:
      inside.pop()

  def value(self):
    if not inside:
      hidden.append(self.shape)
    return real_value.fget(self)

  def begin(self, step, *args):
    reads.append(f"update {step}")
    del hidden[: None if step == 1 else 0]  # compiling reads constants
    return real_begin(self, step, *args)

  monkeypatch.setattr(jax, "device_get", get)
  monkeypatch.setattr(array, "_value", property(value))
  def telling(name):
    real = getattr(scoring, name)
    return lambda *args: reads.append(name) or real(*args)

  monkeypatch.setattr(journal.Journal, "begin", begin)
  for name in ("rewards", "metrics"):
    monkeypatch.setattr(scoring, name, telling(name))
  run_here(tiny(sudoku_dir, steps=4, eval__every=9, checkpoint_every=9),
           tmp_path / "run")
  metric_count = reads[reads.index("update 4") + 2]
  assert metric_count > 3
  # Between two updates: of the one all that it can do without, and its metrics;
  # for the next the tokens and their rewards.
  first = reads.index("update 1")
  between = ["metrics", metric_count, 3, "rewards"]
  assert reads[first : reads.index("update 4") + 1] == [
    "update 1", *between, "update 2", *between, "update 3", *between,
    "update 4"]
  assert not hidden


def test_a_run_whose_gradients_stay_non_finite_stops_and_names_the_step(
    sudoku_dir, tmp_path, monkeypatch):
  monkeypatch.setattr(
    "dlrl.losses.OBJECTIVES", {"bgpo": lambda: losses.Separable(
      lambda draw, rows: (draw.score(draw.logps) * np.nan, {}),
      takes_norm=True)})
  with pytest.raises(RuntimeError, match=r"step 2: .*last 2 updates"):
    run_here(tiny(sudoku_dir, max_nonfinite=2), tmp_path / "run")
  rows = metrics.rows(tmp_path / "run")
  assert rows[-1]["update/nonfinite_total"] == 2


def test_a_run_starts_from_the_parameters_of_another(
    finished, sudoku_dir, tmp_path):
  cfg = tiny(sudoku_dir, init_from=str(finished[0]), steps=1)
  _, rows = run_here(cfg, tmp_path / "run")
  before = {k: v for k, v in rows[0].items() if k.startswith("eval/")}
  after = {k: v for k, v in metrics.rows(finished[0])[-1].items()
           if k.startswith("eval/")}
  assert before == pytest.approx(after)
  with pytest.raises(strict.ConfigError, match=r"init_from.*no checkpoint"):
    run_here(tiny(sudoku_dir, init_from=str(tmp_path)), tmp_path / "none")


def test_adapters_are_trained_and_saved_without_what_is_beneath_them(
    finished, sudoku_dir, tmp_path):
  workdir = tmp_path / "run"
  cfg = tiny(sudoku_dir, init_from=str(finished[0]), lora__rank=2, steps=2,
             learn__loss="diffu_grpo", learn__loss_args={"kl_coef": 0.5},
             learn__score_norm="none")
  _, rows = run_here(cfg, workdir)
  before = {k: v for k, v in rows[0].items() if k.startswith("eval/")}
  after = {k: v for k, v in metrics.rows(finished[0])[-1].items()
           if k.startswith("eval/")}
  assert before == pytest.approx(after)  # nothing but the base at first
  assert rows[-1]["update/kl"] > 0
  longer = dataclasses.replace(cfg, steps=3)  # goes on after step 2
  _, want = run_here(longer, tmp_path / "whole")
  assert run_here(longer, workdir)[1][-1] == want[-1]
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
    run_here(other, workdir)
  assert error.value.field == "seed"
  (workdir / "config.json").write_text(json.dumps(strict.to_json(cfg)))
  with pytest.raises(strict.ConfigError, match="adapters alone") as error:
    run_here(dataclasses.replace(cfg, init_from=str(workdir)), tmp_path / "x")
  assert error.value.field == "init_from"


def test_the_reference_is_the_base_where_that_is_what_rl_starts_from():
  def first(sft_steps, kl_coef=0.5, **changes):
    cfg = tiny("", learn__loss="diffu_grpo", learn__score_norm="none",
               learn__loss_args={"kl_coef": kl_coef}, sft__steps=sft_steps,
               **changes)
    return train.first_reference(cfg, "trained")

  assert first(0) == first(9) == "trained"
  assert first(0, lora__rank=2) == {}
  assert first(9, lora__rank=2) == "trained"  # and no longer fresh
  assert first(9, lora__rank=2, init_from="run") == {}
  assert first(0, 0.0) is first(0, 0.0, lora__rank=2) is None


def test_the_summary_table_names_every_metric_with_its_interval(finished):
  table = report.table(report.read(finished[0]))
  for text in ("solved", "cells", "before", "after", "wall time", "%"):
    assert text in table
