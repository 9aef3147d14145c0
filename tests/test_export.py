"""From a published directory through a run and back to one."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import published_model
import pytest
import test_train

from dlrl import export
from dlrl import models
from dlrl import setup as setup_lib
from dlrl import train
from dlrl.runtime import strict


@pytest.fixture(scope="module")
def run(published, sudoku_dir, tmp_path_factory):
  """A finished run that started from it."""
  cfg = test_train.tiny(
    sudoku_dir, pretrained=str(published), task__prompt_length=40,
    sft__steps=2, steps=2, rollout__reward="units")
  workdir = tmp_path_factory.mktemp("runs") / "run"
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps(strict.to_json(cfg)))
  test_train.run_here(cfg, workdir)
  return workdir, cfg


def test_a_run_starts_from_the_published_parameters(published, run):
  setup = setup_lib.make(run[1])
  assert setup.cfg.model.width == 16
  assert setup.cfg.model.qk_norm
  _, want = models.load(published, dtype="float32")
  jax.tree.map(np.testing.assert_array_equal, setup.init_params(), want)


def test_its_tokenizer_and_template_make_the_prompts(run):
  setup = setup_lib.make(run[1])
  assert setup.tokenizer.mask_id == setup.model.mask_id == 41
  ids = setup.tokenizer.prompt("12+3")
  assert setup.tokenizer.decode(ids) == "12+3|"


def test_an_export_has_the_runs_parameters_and_the_other_files(
    published, run, tmp_path):
  workdir, cfg = run
  out = tmp_path / "out"
  export.export(str(workdir), str(out))
  model, params = models.load(out, dtype="float32")
  jax.tree.map(
    np.testing.assert_array_equal, params, test_train.params_of(workdir))
  _, before = models.load(published, dtype="float32")
  moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), params, before)
  assert any(jax.tree.leaves(moved))
  for name in ("modeling.py", "tokenizer.json", "tokenizer_config.json"):
    assert (out / name).read_bytes() == (published / name).read_bytes()
  hf = json.loads((out / "config.json").read_text())
  assert hf == published_model.QWEN | {"torch_dtype": "float32"}
  assert model.cfg == dataclasses.replace(
    setup_lib.make(cfg).cfg.model, remat=model.cfg.remat)


def test_errors_name_the_argument(published, run, tmp_path):
  workdir, _ = run
  with pytest.raises(strict.ConfigError, match="exists") as error:
    export.export(str(workdir), str(tmp_path))
  assert error.value.field == "out"
  with pytest.raises(strict.ConfigError) as error:
    export.export(str(tmp_path), str(tmp_path / "x"))
  assert error.value.field == "workdir"
  (tmp_path / "config.json").write_text(json.dumps(
    {"pretrained": "", "model": {"param_dtype": "float32"}}))
  with pytest.raises(strict.ConfigError, match="random") as error:
    export.export(str(tmp_path), str(tmp_path / "x"))
  assert error.value.field == "source"
  with pytest.raises(strict.ConfigError, match="no checkpoint") as error:
    export.export(str(tmp_path), str(tmp_path / "x"), str(published))
  assert error.value.field == "workdir"
  assert not (tmp_path / "x").exists()


def test_a_prompt_that_is_too_long_with_its_template_is_an_error(
    published, sudoku_dir, tmp_path):
  cfg = test_train.tiny(sudoku_dir, pretrained=str(published), sft__steps=0)
  with pytest.raises(strict.ConfigError, match="33 tokens") as error:
    test_train.run_here(cfg, tmp_path / "run")
  assert error.value.field == "task.prompt_length"
  setup = setup_lib.make(dataclasses.replace(
    cfg, task=dataclasses.replace(cfg.task, long_prompts="truncate")))
  batch = next(train._batches(setup))
  ids = np.full((cfg.rollout.prompts * cfg.rollout.group_size, 16), 3)
  _, row, _ = train.score(setup, batch, ids)
  assert row["rollout/truncated_prompts"] == cfg.rollout.prompts
  assert (batch["prompt_ids"][:, -1] == setup.tokenizer.encode("|")[0]).all()
