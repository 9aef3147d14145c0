"""From a published checkpoint through a run to an exported one."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import published_model
import pytest
import runs
from safetensors import numpy as safetensors_numpy

from dlrl import export
from dlrl import models
from dlrl import rollout
from dlrl import strict
from dlrl.models import families
from dlrl.models import lora
from dlrl.run import setup as setup_lib
from dlrl.storage import checkpoint


def finished(published, sudoku_dir, workdir, **changes):
  """Trains from `published`; (workdir, config)."""
  cfg = runs.tiny(
    sudoku_dir, pretrained=str(published), task__prompt_length=40,
    sft__steps=2, steps=2, rollout__rewards=("units",), **changes)
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps(strict.to_json(cfg)))
  runs.run_here(cfg, workdir)
  return workdir, cfg


@pytest.fixture(scope="module")
def run(published, sudoku_dir, tmp_path_factory):
  return finished(
    published, sudoku_dir, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def adapted(published, sudoku_dir, tmp_path_factory):
  return finished(
    published, sudoku_dir, tmp_path_factory.mktemp("runs") / "adapted",
    lora__rank=2, lora__alpha=3.0)


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


@pytest.mark.slow
def test_an_export_has_the_runs_parameters_and_the_other_files(
    published, run, tmp_path):
  workdir, cfg = run
  out = tmp_path / "out"
  export.export(str(workdir), str(out))
  model, params = models.load(out, dtype="float32")
  jax.tree.map(
    np.testing.assert_array_equal, params, runs.params_of(workdir))
  _, before = models.load(published, dtype="float32")
  moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), params, before)
  assert any(jax.tree.leaves(moved))
  for name in ("modeling.py", "tokenizer.json", "tokenizer_config.json"):
    assert (out / name).read_bytes() == (published / name).read_bytes()
  hf = json.loads((out / "config.json").read_text())
  assert hf == published_model.QWEN | {"torch_dtype": "float32"}
  assert model.cfg == dataclasses.replace(
    setup_lib.make(cfg).cfg.model, remat=model.cfg.remat)


@pytest.mark.slow
def test_adapters_are_merged_or_written_alone(
    published, adapted, tmp_path):
  workdir, cfg = adapted
  whole, alone = tmp_path / "whole", tmp_path / "alone"
  export.export(str(workdir), str(whole))
  export.export(str(workdir), str(alone), adapter=True)
  _, base = models.load(published, dtype="float32")
  model, got = models.load(whole, dtype="float32")
  tensors = safetensors_numpy.load_file(alone / "adapter_model.safetensors")
  assert len(tensors) == 2 * 7
  settings = json.loads((alone / "adapter_config.json").read_text())
  assert settings["base_model_name_or_path"] == str(published)
  family = families.FAMILIES["a2d-qwen3"].names
  scale = settings["lora_alpha"] / settings["r"]

  def one(path, before, after):
    path = jax.tree_util.keystr(path, simple=True, separator="/")
    name = family[path].format(0).removesuffix(".weight")
    a, b = (tensors.get(f"base_model.model.{name}.lora_{x}.weight")
            for x in "AB")
    if a is None:
      np.testing.assert_array_equal(after, before)
    else:
      change = scale * (b @ a).T
      assert np.abs(change).max() > 1e-6
      np.testing.assert_allclose(after[0], before[0] + change, atol=1e-6)

  jax.tree.map_with_path(one, base, got)

  # The policy that was trained, after a warm start by adapters as well.
  setup = setup_lib.make(cfg)
  policy = lora.join(setup.load_base().params, checkpoint.load_params(
    workdir / "checkpoints", setup.abstract_trained()))
  ids = np.arange(12).reshape(2, 6)
  np.testing.assert_allclose(
    model.logits(got, ids), setup.model.logits(policy, ids), atol=1e-5)


def test_an_adapter_needs_a_base_that_is_published(
    published, run, adapted, tmp_path):
  out = str(tmp_path / "out")
  with pytest.raises(strict.FlagError) as error:
    export.export(str(run[0]), out, adapter=True)
  assert error.value.field == "adapter"
  other = published_model.write(tmp_path, seed=8)
  with pytest.raises(strict.FlagError, match="other parameters") as error:
    export.export(str(adapted[0]), out, str(other))
  assert error.value.field == "source"
  assert not (tmp_path / "out").exists()


def test_errors_name_the_flag(published, run, tmp_path):
  workdir, _ = run
  with pytest.raises(strict.FlagError, match="exists") as error:
    export.export(str(workdir), str(tmp_path))
  assert error.value.field == "out"
  with pytest.raises(strict.FlagError) as error:
    export.export(str(tmp_path), str(tmp_path / "x"))
  assert error.value.field == "workdir"
  (tmp_path / "config.json").write_text(json.dumps(
    {"pretrained": "", "model": {"param_dtype": "float32"}}))
  with pytest.raises(strict.FlagError, match="random") as error:
    export.export(str(tmp_path), str(tmp_path / "x"))
  assert error.value.field == "source"
  with pytest.raises(strict.FlagError, match="no checkpoint") as error:
    export.export(str(tmp_path), str(tmp_path / "x"), str(published))
  assert error.value.field == "workdir"
  assert not (tmp_path / "x").exists()


def test_a_prompt_that_is_too_long_with_its_template_is_an_error(
    published, sudoku_dir, tmp_path):
  cfg = runs.tiny(sudoku_dir, pretrained=str(published), sft__steps=0)
  with pytest.raises(strict.ConfigError, match="33 tokens") as error:
    runs.run_here(cfg, tmp_path / "run")
  assert error.value.field == "task.prompt_length"
  setup = setup_lib.make(dataclasses.replace(
    cfg, task=dataclasses.replace(cfg.task, long_prompts="truncate")))
  batch = next(rollout.prompt_batches(setup, rollout.examples(setup)))
  assert batch["truncated"].tolist() == [1] * cfg.rollout.prompts
  assert (batch["prompt_ids"][:, -1] == setup.tokenizer.encode("|")[0]).all()


@pytest.mark.parametrize("content", [
  "", "[]", "null", "1", '"a"', "[" * 100_000, "{}", '{"model": {}}',
  '{"model": null}', '{"model": []}', '{"model": {"param_dtype": 1}}',
  '{"model": {"param_dtype": "int8"}}',
  *[f'{{"model": {{"param_dtype": "float32"}}, {pair}}}' for pair in (
    '"seed": "0"', '"seed": null', '"init_from": 1', '"pretrained": []',
    '"pretrained": null', '"lora": null', '"lora": {"rank": 1}',
    '"lora": []')]], ids=lambda x: x[:60])
def test_a_damaged_config_of_a_run_is_one_error(tmp_path, content):
  (tmp_path / "config.json").write_text(content)
  with pytest.raises(strict.FlagError) as error:
    export.export(str(tmp_path), str(tmp_path / "out"))
  assert str(error.value).startswith(
    f"--workdir={tmp_path}: is not the directory of a run: ")


@pytest.mark.parametrize("variables, platforms", [
  ({}, "cpu"), ({"JAX_PLATFORMS": "tpu,cpu"}, "tpu,cpu")])
def test_the_command_computes_on_the_cpu_unless_told_otherwise(
    variables, platforms):
  program = (
    "import sys, jax\n"
    "from dlrl import export\n"
    "from dlrl.run import command\n"
    "export.export = lambda *_, **__: print(jax.config.jax_platforms)\n"
    "sys.argv = ['export', '--workdir=run', '--out=out']\n"
    "command.start('export', lambda args: export.run())\n")
  environment = {name: value for name, value in os.environ.items()
                 if name != "JAX_PLATFORMS"}
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True, check=True,
    timeout=120, env=environment | variables | {
      "PYTHONPATH": str(runs.ROOT)})
  assert done.stdout.splitlines()[0] == platforms
