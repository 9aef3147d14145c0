"""A model family of a user's module, as docs/own_family.md has it."""

import json
import re
import sys

import jax
import numpy as np
import pytest
import runs
from safetensors import numpy as safetensors_numpy

from configs import bgpo
from dlrl import models
from dlrl import strict
from dlrl import validate
from dlrl.models import families
from dlrl.models import hf_checkpoints
from dlrl.models import hf_tokenizer
from dlrl.run import setup as setup_lib


@pytest.fixture
def family(tmp_path, monkeypatch):
  page = (runs.ROOT / "docs" / "own_family.md").read_text()
  name = re.findall(r"Write `(\w+)\.py`", page)
  assert name == ["my_family"]
  (tmp_path / "my_family.py").write_text(
    re.search(r"```python\n(.*?)```", page, re.S)[1])
  (tmp_path / "not_one.py").write_text("FAMILY = 3\n")
  monkeypatch.syspath_prepend(tmp_path)
  yield families.named("my_family:FAMILY")
  sys.modules.pop("my_family")


@pytest.fixture
def other(published, tmp_path):
  """The published checkpoint in the format that the page speaks of."""
  path = tmp_path / "my-diffusion"
  path.mkdir()
  for file in published.iterdir():
    if file.suffix != ".safetensors":
      (path / file.name).write_bytes(file.read_bytes())
  tensors = safetensors_numpy.load_file(published / "model.safetensors")
  safetensors_numpy.save_file(
    {name.replace("model.", "backbone."): x for name, x in tensors.items()},
    path / "model.safetensors")
  config = json.loads((path / "config.json").read_text())
  (path / "config.json").write_text(
    json.dumps(config | {"model_type": "my-diffusion"}))
  return path


@pytest.mark.slow
def test_it_reads_what_the_original_holds_and_writes_it_again(
    family, other, published, tmp_path):
  _, wanted = models.load(published, dtype="float32")
  model, found = models.load(other, dtype="float32", family=family)
  assert model.cfg.qk_norm
  jax.tree.map(np.testing.assert_array_equal, wanted, found)
  assert hf_tokenizer.load(other, family=family).mask_id == 41
  hf_checkpoints.save(found, other, tmp_path / "out", family=family)
  there, again = (safetensors_numpy.load_file(p / "model.safetensors")
                  for p in (other, tmp_path / "out"))
  assert there.keys() == again.keys()
  for name in there:
    np.testing.assert_array_equal(there[name], again[name])


def cfg_of(other, name):
  cfg = bgpo.get_config("smoke")
  cfg.mesh.cpu_devices = 0
  cfg.pretrained, cfg.family = str(other), name
  return cfg


@pytest.mark.slow
def test_a_run_reads_it_by_the_setting(family, other, published):
  cfg = validate.from_dict(cfg_of(other, "my_family:FAMILY"))
  setup = setup_lib.make(cfg)
  assert setup.cfg.model.width == 16
  with jax.set_mesh(setup.mesh):
    found = setup.init_params()
  _, wanted = models.load(published, dtype="float32")
  jax.tree.map(np.testing.assert_array_equal, wanted, found)


def test_without_it_the_checkpoint_is_refused(other):
  with pytest.raises(strict.ConfigError, match=(
      r"model_type is 'my-diffusion' in its config.json; supported: .* "
      r"config.family")):
    models.load(other)


def test_a_checkpoint_cannot_name_code(other, family):
  path = other / "config.json"
  config = json.loads(path.read_text())
  sys.modules.pop("my_family")
  for kind in ("my_family:FAMILY", ["llada"], {"a": 1}, None):
    path.write_text(json.dumps(config | {
      "model_type": kind, "family": "my_family:FAMILY"}))
    with pytest.raises(strict.ConfigError, match="model_type is"):
      models.load(other)
  assert "my_family" not in sys.modules
  families.named("my_family:FAMILY")


@pytest.mark.parametrize(("name", "said"), [
  ("not_one:FAMILY", "must be a dlrl.models.families.Family, got int"),
  ("no_family:FAMILY", "No module named 'no_family'"),
])
def test_what_is_no_family_is_refused_in_one_line(name, said, other, family):
  with pytest.raises(strict.ConfigError) as error:
    validate.from_dict(cfg_of(other, name))
  assert str(error.value).startswith(f"config.family = '{name}': ")
  assert said in str(error.value)
  with pytest.raises(strict.FlagError, match=f"--family={name}: "):
    families.named(name, "family", strict.FlagError)
