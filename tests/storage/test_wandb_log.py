"""Weights & Biases: a double of it here, itself where it is installed."""

import importlib.util
import json
import sys
import types

import pytest
import runs

from dlrl import strict
from dlrl.storage import metrics
from dlrl.storage import samples
from dlrl.storage import wandb_log


@pytest.fixture
def calls(monkeypatch):
  """What is asked of a W&B that does nothing."""
  found = []

  class Run:
    def log(self, row, step):
      found.append(("log", step, row))

    def finish(self):
      found.append(("finish",))

  class Table:
    def __init__(self, columns, data):
      self.rows = [dict(zip(columns, row, strict=True)) for row in data]

  def init(**kwargs):
    found.append(("init", kwargs))
    return Run()

  monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(
    init=init, Table=Table))
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
  return found


@pytest.mark.slow
def test_rows_of_a_run_go_there_and_a_second_start_has_the_same_id(
    calls, sudoku_dir, tmp_path):
  workdir = tmp_path / "run"
  cfg = runs.tiny(sudoku_dir, steps=1, sft__steps=0, wandb="mine")
  runs.run_here(cfg, workdir)
  (name, first), *logged, last = calls
  assert (name, last) == ("init", ("finish",))
  assert first["project"] == "mine"
  assert first["config"] == strict.to_json(cfg)
  assert [{"step": step} | row for _, step, row in logged
          if "samples" not in row] == metrics.rows(workdir)
  # Nothing of these puzzles has to be escaped.
  assert [{"step": step} | sample for _, step, row in logged
          for sample in getattr(row.get("samples"), "rows", [])
          ] == metrics.samples(workdir) != []
  with (pytest.raises(KeyError), wandb_log.wandb("mine", workdir, {})):
    raise KeyError
  assert calls[-2][1]["id"] == first["id"]
  assert calls[-2][1]["resume"] == "allow"
  assert calls[-1] == ("finish",)


def test_without_it_the_setting_is_refused_and_nothing_is_imported(
    monkeypatch, sudoku_dir, tmp_path):
  real = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec",
                      lambda name: None if name == "wandb" else real(name))
  with pytest.raises(strict.ConfigError, match="pip install wandb"):
    runs.tiny(sudoku_dir, wandb="mine")
  monkeypatch.setitem(sys.modules, "wandb", None)
  with wandb_log.wandb("", tmp_path, {}) as log:
    log.row(1, {})
    log.samples(1, [])
  assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
  importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_one_writes_a_run_offline(monkeypatch, tmp_path):
  monkeypatch.setenv("WANDB_MODE", "offline")
  with wandb_log.wandb("mine", tmp_path, json.loads('{"a": {"b": 1}}')) as log:
    log.row(0, {"loss": 1.0})
    log.row(2, {"loss": None, "text": "x"})
    log.samples(2, [samples.Sample("p", "\x1b[2J\udcff", 0.5)])
  (file,) = (tmp_path / "wandb").rglob("run-*.wandb")
  assert (tmp_path / "wandb_id").read_text() in file.name
