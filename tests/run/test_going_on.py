"""What may change between the starts of a run, and what it is then."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
import runs
import terminals
from main_runs import STEPS
from main_runs import killed
from main_runs import start

from dlrl import strict
from dlrl import validate
from dlrl.config import Restart
from dlrl.run import going_on
from dlrl.run import setup as setup_lib
from dlrl.run import step_log
from dlrl.storage import checkpoint
from dlrl.storage import workdir as workdir_lib

# Another value of every setting that may change and is used by such a run.
FREE = {
  "checkpoint_every": 1, "checkpoint_keep": 1, "max_nonfinite": 3,
  "log_every": 2, "sample_every": 1, "task.train_files": "x",
  "task.validation_files": "x", "task.test_files": "x",
  "task.bad_rows": "skip", "task.sandbox_allow": "('files',)",
  "task.long_prompts": "truncate",
  "sft.log_every": 7, "sft.checkpoint_every": 7, "eval.every": 3,
  "evaluation.split": "validation", "evaluation.size": 5,
  "evaluation.lengths": "(4,)", "evaluation.tokens_per_step": 1,
  "evaluation.samples": 2, "evaluation.scorer": "legacy_d1",
  "watchdog.times": 0.0, "watchdog.least_seconds": 60.0,
  "watchdog.first_seconds": 600.0, "profile.steps": "3",
  "mesh.gpu_memory": 0.5, "rollout.mismatch_every": 3,
  "rollout.expert_load_every": 3}
MOVED = {"task.prompt_file", "task.data_dir"}
UNTRIED = {"wandb"}  # needs its library; see test_wandb_log.py
OF_EXPERTS = {"mesh.expert"}  # of which these runs have none
ROUNDING = {
  "mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2, "mesh.cpu_devices": 8,
  "model.remat": "none", "model.attention": "xla", "learn.micro_batch": 16,
  "learn.logps_chunk": 4, "sft.logps_chunk": 4, "learn.draws_at_once": 2,
  "learn.reduce_dtype": "float32", "eval.batch_size": 4,
  "rollout.sampler.slots": 4, "eval.sampler.slots": 4,
  "rollout.sampler.gather_once": True, "eval.sampler.gather_once": True}


@pytest.fixture(scope="module", autouse=True)
def quickly_compiled():
  jax.config.update("jax_disable_most_optimizations", True)
  yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory):
  path = tmp_path_factory.mktemp("prompt") / "prompt.txt"
  path.write_text("{question}")
  return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, sudoku_dir, prompt_file):
  """A run that nobody disturbed, and the arguments that start it."""
  workdir = tmp_path_factory.mktemp("going_on") / "whole"
  start(workdir, sudoku_dir, prompt_file)
  # Every step changes parameters.
  assert all(row["update/grad_norm"] > 0 for row in trained(workdir)[1:])
  return workdir, sudoku_dir, prompt_file


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, sudoku_dir, prompt_file):
  """A longer run that was killed in step 4, after the checkpoint of step 2."""
  workdir = tmp_path_factory.mktemp("going_on") / "stopped"
  killed(4, workdir, sudoku_dir, prompt_file, {"steps": 400})
  return workdir


def trained(workdir):
  """The logged numbers of training; `truncated` counts prompts that are cut."""
  other = ("eval/", "test/", "rollout/truncated")
  return [{k: v for k, v in row.items() if not k.startswith(other)}
          for row in runs.timeless(workdir)]


def assert_same(workdir, whole):
  assert trained(workdir) == trained(whole)
  jax.tree.map(np.testing.assert_array_equal, runs.params_of(workdir),
               runs.params_of(whole))


def recorded(workdir):
  """`(step, changed)` of each start."""
  lines = (workdir / "starts.jsonl").read_text().splitlines()
  return [(row["step"], row.get("changed"))
          for row in map(json.loads, lines)]


def config_of(workdir):
  return json.loads((workdir / "config.json").read_text())


def test_every_setting_that_may_change_is_tried():
  found = {s.name: s.restart for s in validate.settings()}
  for tried, how in ((FREE.keys() | MOVED | UNTRIED, Restart.FREE),
                     (ROUNDING.keys() | OF_EXPERTS, Restart.ROUNDING),
                     ({"steps", "sft.steps"}, Restart.LENGTH)):
    assert tried == {name for name, each in found.items() if each == how}
  assert set(found.values()) == {each.value for each in Restart}


@pytest.mark.slow
def test_what_changes_no_number_may_change(whole, stopped, tmp_path, capsys):
  root, data_dir, prompt_file = whole
  run, moved = tmp_path / "run", tmp_path / "moved.txt"
  shutil.copytree(stopped, run)
  shutil.copy(prompt_file, moved)
  (tmp_path / "moved").symlink_to(data_dir)
  start(run, tmp_path / "moved", moved, FREE)
  assert_same(run, root)
  assert [row["step"] for row in runs.timeless(run)
          if "eval/items" in row] == [0, 2, 3, 4]
  assert checkpoint.steps(run / "checkpoints") == [4]
  (first, more), (step, changed) = recorded(run)
  assert (first, more, step) == (0, None, 2)
  # The run is also shorter than it was to be.
  assert changed.keys() == FREE.keys() | MOVED | {"steps"}
  assert changed["log_every"] == [1, 2]
  assert config_of(run)["log_every"] == 2
  assert "changed after step 2: checkpoint_every 2 -> 1" in terminals.unbroken(
    capsys.readouterr().out)


@pytest.mark.slow
def test_what_changes_rounding_may_change(whole, stopped, tmp_path, capsys):
  root, *args = whole
  shutil.copytree(stopped, tmp_path / "run")
  start(tmp_path / "run", *args, ROUNDING)
  got, want = (runs.timeless(path) for path in (tmp_path / "run", root))
  for row, other in zip(got[3:], want[3:], strict=True):
    # The share of micro-batches that were computed, which are others.
    del row["update/computed"], other["update/computed"]
    # Passes, which are more where fewer rows are decoded at once.
    del row["rollout/forwards"], other["rollout/forwards"]
    assert row == pytest.approx(other, rel=1e-3, abs=1e-5)
  assert got[:3] == want[:3]
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    runs.params_of(tmp_path / "run"), runs.params_of(root))
  assert "mesh.tensor 1 -> 2 (equal up to rounding)" in terminals.unbroken(
    capsys.readouterr().out)


def test_what_changes_numbers_may_not(whole):
  root, *args = whole
  before = config_of(root)
  names = [s.name for s in validate.settings() if s.restart == Restart.FIXED]
  assert {"seed", "learn.n_mc", "eval.size", "lora.rank"} <= set(names)
  with pytest.raises(strict.FlagError, match="another config") as error:
    start(root, *args, {
      "seed": 1, "learn.n_mc": 4, "eval.size": 4, "log_every": 3})
  assert [line.split(":")[0] for line in str(error.value).splitlines()[1:]] == [
    "  config.eval.size", "  config.learn.n_mc", "  config.seed"]
  assert config_of(root) == before


@pytest.mark.slow
def test_a_finished_run_with_more_steps_is_the_longer_run(
    whole, tmp_path, capsys):
  root, *args = whole
  run = tmp_path / "run"
  start(run, *args, {"steps": 2})
  assert json.loads((run / "summary.json").read_text())["steps"] == 2
  start(run, *args)
  assert_same(run, root)
  rows = runs.timeless(run)
  assert "test/items" in rows[2]  # where it had ended
  assert rows[-1] == runs.timeless(root)[-1]
  assert json.loads((run / "summary.json").read_text())["steps"] == STEPS
  assert recorded(run) == [(0, None), (2, {"steps": [2, STEPS]})]
  out = capsys.readouterr().out
  assert f"changed after step 2: steps 2 -> {STEPS}\n" in out
  assert "schedule" not in out
  start(run, *args)
  assert "is finished" in terminals.unbroken(capsys.readouterr().out)
  assert len(recorded(run)) == 2
  for steps in (2, 3):
    with pytest.raises(strict.ConfigError, match="made 4 steps") as error:
      start(run, *args, {"steps": steps})
    assert (error.value.field, error.value.value) == ("steps", steps)
  assert config_of(run)["steps"] == STEPS


def test_a_finished_run_that_lost_its_checkpoints_is_not_repeated(
    whole, tmp_path):
  root, *args = whole
  shutil.copytree(root, tmp_path / "run")
  (tmp_path / "run" / "checkpoints").rename(tmp_path / "elsewhere")
  with pytest.raises(strict.FlagError, match="lacks the checkpoint of step 4"):
    start(tmp_path / "run", *args, {"steps": 5})
  assert trained(tmp_path / "run") == trained(root)


@pytest.mark.parametrize(("job", "warmup", "updates"), [
  ("rl", 0, 1), ("rl", 3, 2), ("sft", 0, 1)])
def test_a_schedule_that_ends_later_is_said(
    job, warmup, updates, sudoku_dir, tmp_path, capsys, monkeypatch):
  part = "learn" if job == "rl" else "sft"
  cfg = runs.tiny(sudoku_dir, job=job, steps=10, sft__steps=10, **{
    f"{part}__optimizer__schedule": "cosine", "learn__epochs": updates,
    f"{part}__optimizer__learning_rate": 1e-3,
    f"{part}__optimizer__warmup_steps": warmup})
  monkeypatch.setattr(checkpoint, "steps", lambda path: [4, 5])
  (tmp_path / "checkpoints" / "5").mkdir(parents=True)
  field = going_on.length(cfg)[0]
  claimed = workdir_lib.Workdir(tmp_path, True, {field: (5, 10)}, -1)
  going_on.begin(claimed, cfg, {"steps": 5})
  rate = 1e-3 * 0.5 * (1 + math.cos(
    math.pi * (5 * updates - warmup) / (10 * updates - warmup)))
  assert (f"{part}.optimizer.schedule = 'cosine' now ends at step 10: the rate "
          f"of step 6 is {rate:.3g}, and would have been 0. ") in (
            terminals.unbroken(capsys.readouterr().out))


@pytest.mark.slow
def test_fine_tuning_goes_on_to_more_steps(sudoku_dir, tmp_path):
  values = {"sft.optimizer.schedule": "constant", "sft.log_every": 1,
            "sft.batch_size": 8, "sft.optimizer.warmup_steps": 0}
  for name, steps in (("run", 1), ("run", 2), ("whole", 2)):
    start(tmp_path / name, sudoku_dir, "", values | {"sft.steps": steps},
          f"{runs.ROOT}/configs/sft.py:smoke")
  assert_same(tmp_path / "run", tmp_path / "whole")
  assert recorded(tmp_path / "run")[1] == (1, {"sft.steps": [1, 2]})


@pytest.mark.slow
def test_a_start_that_failed_refuses_no_other(whole, tmp_path, monkeypatch):
  root, *args = whole
  run = tmp_path / "run"
  with pytest.raises(strict.ConfigError, match=r"init_from.*no checkpoint"):
    start(run, *args, {"init_from": str(tmp_path)})
  assert config_of(run)["init_from"] == str(tmp_path)
  # After row 0, in the first step, where memory is allocated.
  with monkeypatch.context() as patch:
    def fail(*args):
      raise RuntimeError("RESOURCE_EXHAUSTED")

    patch.setattr(step_log, "samples", fail)
    with pytest.raises(RuntimeError, match="RESOURCE"):
      start(run, *args, {"seed": 7})
  assert [row["step"] for row in runs.timeless(run)] == [0]
  start(run, *args)
  assert_same(run, root)
  assert recorded(run) == [
    (0, None), (0, {"init_from": [str(tmp_path), ""], "seed": [0, 7]}),
    (0, {"seed": [7, 0]})]
  assert config_of(run)["seed"] == 0
  # What has begun is protected.
  with pytest.raises(strict.FlagError, match="another config"):
    start(run, *args, {"seed": 7})


@pytest.mark.slow
def test_a_run_starts_from_any_checkpoint_of_another(
    whole, sudoku_dir, tmp_path):
  root, *_ = whole
  found = {}
  for name in (f"{root}@2", f"{root}@4", str(root)):
    cfg = runs.tiny(sudoku_dir, init_from=name)
    found[name] = setup_lib.make(cfg).init_params()
  second, last, newest = found.values()
  abstract = setup_lib.make(runs.tiny(sudoku_dir)).abstract_params()
  for got, step in ((second, 2), (last, 4), (newest, 4)):
    jax.tree.map(np.testing.assert_array_equal, got, checkpoint.load_params(
      root / "checkpoints", abstract, step=step))
  assert any(np.any(a != b) for a, b in zip(
    *map(jax.tree.leaves, (second, last)), strict=True))
  with pytest.raises(strict.ConfigError, match="no checkpoint of step 3") as e:
    setup_lib.make(runs.tiny(
      sudoku_dir, init_from=f"{root}@3")).init_params()
  assert (e.value.field, e.value.value) == ("init_from", f"{root}@3")
  (tmp_path / "a@2").symlink_to(root)  # a directory of that very name
  jax.tree.map(np.testing.assert_array_equal, last, setup_lib.make(runs.tiny(
    sudoku_dir, init_from=str(tmp_path / "a@2"))).init_params())


def older(workdir, *names):
  """Makes the run one of a version without these settings."""
  values = config_of(workdir)
  for name in names:
    *sections, key = name.split(".")
    section = values
    for part in sections:
      section = section[part]
    del section[key]
  (workdir / "config.json").write_text(json.dumps(values))


NEWER = ("learn.tokens", "model.block_length", "rollout.normalize",
         "rollout.resample", "rollout.sampler.top_k", "sft.forward_process")


@pytest.mark.slow
def test_a_run_of_an_older_version_goes_on(whole, stopped, tmp_path, capsys):
  root, *args = whole
  run = tmp_path / "run"
  shutil.copytree(stopped, run)
  older(run, *NEWER)
  # This version's config sets what was not there then.
  config_file = tmp_path / "own.py"
  config_file.write_text(
    "from configs import bgpo\n\n\ndef get_config():\n"
    "  cfg = bgpo.get_config('smoke')\n"
    "  cfg.learn.tokens = 'until_eos'\n  return cfg\n")
  with pytest.raises(strict.FlagError, match="another config") as error:
    start(run, *args, {"learn.tokens": "until_eos"}, str(config_file))
  assert str(error.value).splitlines()[1:] == [
    "  config.learn.tokens: 'canvas' -> 'until_eos'"]
  capsys.readouterr()
  start(run, *args, {}, str(config_file))
  assert_same(run, root)
  assert ("the run is older than the setting learn.tokens, which is "
          "'until_eos' here; it goes on with 'canvas'") in (
            terminals.unbroken(capsys.readouterr().out))
  assert config_of(run)["learn"]["tokens"] == "canvas"


def test_settings_that_are_gone_are_named(whole, stopped, tmp_path):
  _, *args = whole
  run = tmp_path / "run"
  shutil.copytree(stopped, run)
  values = config_of(run)
  values["rollout"]["reward"] = "solved"
  (run / "config.json").write_text(json.dumps(values))
  with pytest.raises(strict.FlagError, match="this version of dlrl lacks") as e:
    start(run, *args)
  assert str(e.value).splitlines()[1:] == [
    "  config.rollout.reward = 'solved': unknown key; did you mean 'rewards'?"]
