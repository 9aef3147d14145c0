"""What a run starts from: exactly the same whenever it is made anew."""

import dataclasses

import jax
import numpy as np
import pytest
import runs

from dlrl import config
from dlrl import models
from dlrl import strict
from dlrl.models import quantized
from dlrl.run import setup as setup_lib
from dlrl.run import start_params


def base_of(cfg, *sizes):
  setup = setup_lib.make(
    dataclasses.replace(cfg, mesh=config.MeshConfig(*sizes))
  )
  return setup.load_base()


@pytest.mark.slow
def test_random_parameters_are_those_of_the_seed_on_every_mesh(sudoku_dir):
  cfg = runs.tiny(sudoku_dir, lora__rank=2)
  first = base_of(cfg, -1, 1, 1)
  assert (first.field, first.value) == ("seed", 0)
  split = base_of(cfg, 2, 2, 2)
  jax.tree.map(np.testing.assert_array_equal, split.params, first.params)
  first.check(split.id)
  other = base_of(dataclasses.replace(cfg, seed=1), -1, 1, 1)
  with pytest.raises(strict.ConfigError, match="other parameters") as error:
    other.check(first.id)
  assert (error.value.field, error.value.value) == ("seed", 1)


def test_without_adapters_there_is_no_base(sudoku_dir):
  assert setup_lib.make(runs.tiny(sudoku_dir)).load_base() is start_params.NONE
  start_params.NONE.check("")


@pytest.mark.slow
def test_a_pretrained_base_is_what_is_published(published, sudoku_dir):
  pytest.importorskip("qwix")
  cfg = runs.tiny(
    sudoku_dir, pretrained=str(published), lora__rank=2, sft__steps=0)
  base = setup_lib.make(cfg).load_base()
  assert (base.field, base.value) == ("pretrained", str(published))
  _, want = models.load(published, dtype="float32")
  jax.tree.map(np.testing.assert_array_equal, base.params, want)
  setup = setup_lib.make(dataclasses.replace(
    cfg, lora=dataclasses.replace(cfg.lora, quantize="int8")))
  small = setup.load_base()
  assert small.id == base.id  # of what was read
  kernel = small.params["layers"]["mlp"]["up"]["kernel"]
  assert quantized.is_quantized(kernel)
  assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), small.params) \
    == jax.tree.map(
      lambda x: (x.shape, x.dtype, x.sharding), setup.abstract_base())
