import json

import pytest

from dlrl import config
from dlrl import strict
from dlrl.run import saved_params
from dlrl.storage import checkpoint


def a_run(root, monkeypatch, rows, there):
  root.joinpath("metrics.jsonl").write_text(
    "".join(json.dumps(row) + "\n" for row in rows))
  monkeypatch.setattr(checkpoint, "steps", lambda path: there)


def test_the_best_checkpoint_is_one_that_is_there(tmp_path, monkeypatch):
  a_run(tmp_path, monkeypatch, [
    {"step": 10, "eval/solved": 0.9}, {"step": 20, "eval/solved": 0.4},
    {"step": 30, "eval/solved": 0.4, "test/solved": 0.1}, {"step": 35},
    {"step": 40, "eval/solved": 0.3}], [20, 30, 35, 40])
  assert saved_params.step(str(tmp_path), "best") == 30
  assert saved_params.step(str(tmp_path), "latest") == 40
  assert saved_params.step(str(tmp_path), "35") == 35


@pytest.mark.parametrize("which", ["21", "newest", "-1", ""])
def test_another_step_is_refused(tmp_path, monkeypatch, which):
  a_run(tmp_path, monkeypatch, [], [20, 40])
  with pytest.raises(strict.ConfigError, match="latest, best, 20, 40"):
    saved_params.step(str(tmp_path), which)


def test_none_evaluated_has_no_best(tmp_path, monkeypatch):
  a_run(tmp_path, monkeypatch, [{"step": 20}], [20])
  with pytest.raises(strict.ConfigError, match=r"multiple of eval\.every"):
    saved_params.step(str(tmp_path), "best")


def test_no_checkpoint_is_said(tmp_path):
  with pytest.raises(strict.ConfigError, match="no checkpoint yet"):
    saved_params.step(str(tmp_path), "latest")


def test_settings_are_the_runs_and_the_rest_is_default(tmp_path):
  run = config.default()
  run.seed = 7
  values = run.to_dict()
  del values["evaluation"]
  (tmp_path / "config.json").write_text(json.dumps(values))
  found = saved_params.settings(str(tmp_path))
  assert found.seed == 7
  assert found.evaluation == config.default().evaluation


def test_a_directory_of_no_run_is_refused(tmp_path):
  with pytest.raises(strict.ConfigError, match="not the directory of a run"):
    saved_params.settings(str(tmp_path))
