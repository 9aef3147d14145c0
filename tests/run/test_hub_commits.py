"""A model and rows by their names on the Hub: what a run records and reads."""

import json
import pathlib
import subprocess
import sys

import fake_hub
import jax
import numpy as np
import own_flags
import pytest
import runs

from dlrl import config
from dlrl import evaluate
from dlrl import main
from dlrl import models
from dlrl import strict
from dlrl.models import hf_checkpoints
from dlrl.models import hf_tokenizer
from dlrl.models import peft
from dlrl.run import command
from dlrl.run import hub_commits

BGPO = str(runs.ROOT / "configs" / "bgpo.py")
ROWS = "hf://datasets/org/rows"


@pytest.fixture
def tiny(hub, published):
  """The commit of org/tiny, whose files are those of `published`."""
  return hub.add("org/tiny", published)


@pytest.fixture
def rows(hub, tmp_path):
  root = tmp_path / "rows"
  root.mkdir()
  (root / "train.jsonl").write_text(
    json.dumps({"prompt": "1+1=", "solution": "2"}) + "\n")
  return hub.add("org/rows", root, kind="datasets")


@pytest.fixture
def started(tmp_path, monkeypatch, sudoku_dir):
  """Starts a run up to its work; the settings that it would work with."""
  def start(*args, **changes):
    fake_hub.forget()
    argv = ["dlrl", f"--config={BGPO}:smoke", "--config.task.prompt_length=40",
            f"--config.task.data_dir={sudoku_dir}",
            "--config.mesh.cpu_devices=8", *(
              f"--config.{k}={v}" for k, v in (runs.TINY | changes).items()),
            *args]
    monkeypatch.setattr(sys, "argv", argv)
    seen = []
    monkeypatch.setattr(main, "_work", lambda setup, path: seen.append(
      setup.cfg) or {"steps": 0, "seconds": {}})
    monkeypatch.setattr(main.summary_lib, "table", str)
    monkeypatch.setattr(main, "_check_rows", lambda setup: None)
    with own_flags.of("train"):
      command.parse(argv)
      main.run(BGPO, str(tmp_path / "run"))
    return seen[0]

  return start


def recorded(tmp_path):
  return json.loads((tmp_path / "run" / "config.json").read_text())


@pytest.mark.slow
def test_a_model_by_name_is_that_in_a_directory(tiny, published):
  model, params = models.load("org/tiny", dtype="float32")
  want_model, want = models.load(published, dtype="float32")
  assert model.cfg == want_model.cfg
  jax.tree.map(np.testing.assert_array_equal, params, want)
  ids = [f.load(x).prompt("12+3") for f, x in (
    (hf_tokenizer, "org/tiny"), (hf_tokenizer, published))]
  assert ids[0] == ids[1]


def test_the_commit_is_recorded_and_not_the_place(
    hub, tiny, started, tmp_path):
  cfg = started("--config.pretrained=org/tiny")
  assert cfg.pretrained == f"org/tiny@{tiny}"
  assert cfg.model.width == 16
  assert cfg.model.qk_norm
  assert recorded(tmp_path)["pretrained"] == f"org/tiny@{tiny}"
  assert str(tmp_path) not in json.dumps(recorded(tmp_path)["pretrained"])
  assert "modeling.py" not in hub.downloads()
  assert "model.safetensors" not in hub.downloads()  # nothing was loaded yet


def test_the_same_command_keeps_the_commit_and_another_is_refused(
    hub, tiny, published, started, tmp_path):
  started("--config.pretrained=org/tiny")
  new = hub.add("org/tiny", published)
  assert new != tiny
  cfg = started("--config.pretrained=org/tiny")
  assert cfg.pretrained == f"org/tiny@{tiny}"
  assert started(f"--config.pretrained=org/tiny@{tiny}") == cfg
  # Once a step is made.
  (tmp_path / "run" / "checkpoints" / "1").mkdir(parents=True)
  with pytest.raises(strict.FlagError) as error:
    started("--config.pretrained=org/tiny@main")
  assert f"'org/tiny@{tiny}' -> 'org/tiny@{new}'" in str(error.value)
  with pytest.raises(strict.FlagError, match=r"config\.pretrained: .* -> ''"):
    started()


def test_a_run_goes_on_without_a_network(
    hub, tiny, started, tmp_path, monkeypatch):
  started("--config.pretrained=org/tiny")
  monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
  assert started("--config.pretrained=org/tiny").pretrained == (
    f"org/tiny@{tiny}")


def test_rows_are_those_that_the_run_began_with(
    hub, rows, started, tmp_path):
  local = tmp_path / "local.jsonl"
  local.write_text(json.dumps({"prompt": "2+2="}) + "\n")
  asked = ("--config.task.name=files",
           f"--config.task.train_files={local}, {ROWS}/train.jsonl",
           f"--config.task.validation_files={ROWS}/*.jsonl")
  counted = {"rollout.rewards": ("tokens_per_forward",)}
  task = started(*asked, **counted).task
  assert task.train_files == f"{local},{ROWS}@{rows}/train.jsonl"
  assert task.validation_files == f"{ROWS}@{rows}/*.jsonl"
  assert task.test_files == ""
  # Without the file that the run needs: nothing asks for the new commit.
  (tmp_path / "new").mkdir()
  hub.add("org/rows", tmp_path / "new", kind="datasets")
  assert started(*asked, **counted).task == task


def test_paths_and_other_values_stay(tmp_path, monkeypatch, published):
  cfg = config.Config(pretrained=str(published))
  assert hub_commits.fixed(cfg) == cfg
  monkeypatch.chdir(tmp_path)
  (tmp_path / "org" / "tiny").mkdir(parents=True)
  cfg = config.Config(pretrained="org/tiny")
  assert hub_commits.fixed(cfg) == cfg


@pytest.mark.parametrize("text", ["", "[]", "{", '{"task": 1}'])
def test_a_damaged_record_keeps_nothing(text, tmp_path):
  (tmp_path / "config.json").write_text(text)
  values = config.default()
  values.pretrained = "org/tiny"
  hub_commits.keep(values, tmp_path)
  assert values.pretrained == "org/tiny"


def test_an_evaluation_names_the_flag_that_was_typed(
    hub, sudoku_dir, monkeypatch, tmp_path):
  argv = ["dlrl", f"--config={BGPO}:smoke", "--model=org/absent",
          f"--config.task.data_dir={sudoku_dir}", f"--out={tmp_path / 'out'}",
          "--config.mesh.cpu_devices=8"]
  monkeypatch.setattr(sys, "argv", argv)
  with own_flags.of("evaluate"), pytest.raises(strict.FlagError) as error:
    command.parse(argv)
    evaluate.run()
  assert str(error.value).startswith(
    "--model=org/absent: there is no such directory, and ")


def test_only_an_export_has_the_code(hub, tiny, published, tmp_path):
  _, params = models.load("org/tiny", dtype="float32")
  assert "modeling.py" not in hub.downloads()
  for name, source in (("named", "org/tiny"), ("local", published)):
    hf_checkpoints.save(params, source, tmp_path / name)
  for file in (tmp_path / "local").iterdir():
    assert (tmp_path / "named" / file.name).read_bytes() == file.read_bytes()
  assert (tmp_path / "named" / "modeling.py").is_file()
  assert hub.downloads()["modeling.py"] == 1


def test_an_adapter_names_its_base_as_peft_does(tiny, tmp_path):
  peft.save({}, config.LoraConfig(rank=2), f"org/tiny@{tiny}", tmp_path / "out")
  written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
  assert written["base_model_name_or_path"] == "org/tiny"
  assert written["revision"] == tiny


@pytest.mark.slow
def test_the_processes_of_a_job_read_one_commit(
    hub, tiny, tmp_path):
  # Each question for the branch moves it.
  hub.moving = True
  port = runs.free_port()
  running = [subprocess.Popen(
    [sys.executable, runs.ROOT / "tests" / "support" / "joined_hub.py",
     str(port), str(i), "org/tiny"], text=True, stdout=subprocess.PIPE,
    env=hub.environment(tmp_path / f"home{i}"))  # as on two hosts
    for i in range(2)]
  said = [process.communicate(timeout=100)[0].splitlines()[-1]
          for process in running]
  assert said[0] == said[1]
  name, _, commit = said[0].partition("@")
  assert name == "org/tiny"
  assert pathlib.Path(hub.root / "models" / name / commit).is_dir()


@pytest.mark.slow
def test_the_command_chats_with_a_model_by_name(hub, tiny, tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "dlrl.commands", "chat", "--model=org/tiny",
     "--prompt=1+2", "--gen_length=4", "--block_length=4", "--steps=1"],
    cwd=tmp_path, env=hub.environment(tmp_path / "home"), text=True,
    capture_output=True, timeout=100, check=False)
  assert (done.returncode, done.stderr) == (0, "")
  assert set(hub.downloads()) == {
    "config.json", "tokenizer.json", "tokenizer_config.json",
    "model.safetensors"}
