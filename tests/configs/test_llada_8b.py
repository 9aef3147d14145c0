"""The large presets: the published size, and updates that can be traced."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import pytest

from dlrl import optimizer
from dlrl import tasks
from dlrl import update
from dlrl import validate
from dlrl.models import lora
from dlrl.models import transformer
from dlrl.presets import llada_8b
from dlrl.presets import names
from dlrl.run import train_state

PRESET = "llada_8b_sudoku"


@pytest.mark.parametrize("method", ["bgpo", "espo", "diffu_grpo", "trace_rl"])
def test_an_update_of_eight_billion_parameters_has_its_shapes(method):
  module = importlib.import_module(f"configs.{method}")
  cfg = validate.from_dict(module.get_config(PRESET))
  model = transformer.build(cfg.model, 126336, cfg.lora)
  params = jax.eval_shape(model.init, jax.random.key(0))
  # Of the published checkpoint's index.
  assert sum(x.size for x in jax.tree.leaves(params)) == 8_015_581_184
  adapted = method in ("diffu_grpo", "espo")
  trained = lora.shapes(params, cfg.lora) if adapted else params
  tx = optimizer.make(cfg.learn.optimizer, 10)
  state = jax.eval_shape(lambda p: update.TrainState(
    jnp.int32(0), p, tx.init(p), jax.random.key_data(jax.random.key(0)),
    train_state.reference(cfg, p)), trained)
  if adapted:
    # r (in + out) of seven matrices; two moments of each, and a few counters.
    size = 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 12288))
    assert sum(x.size for x in jax.tree.leaves(trained)) == size
    assert 0 <= sum(
      x.size for x in jax.tree.leaves(state.opt_state)) - 2 * size < 10
    assert state.ref_params == {}
    assert {x.dtype for x in jax.tree.leaves(params)} == {
      jnp.dtype("bfloat16")}
    state = dataclasses.replace(state, base=params)
  rows = cfg.rollout.prompts * cfg.rollout.group_size
  length = cfg.rollout.sampler.gen_length

  def shape(dtype, *sizes):
    return jax.ShapeDtypeStruct(sizes, dtype)

  batch = update.Batch(
    prompt=shape("int32", rows, cfg.task.prompt_length),
    prompt_length=shape("int32", rows),
    completion=shape("int32", rows, length),
    maskable=shape("bool", rows, length), advantage=shape("float32", rows),
    keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows)),
    trace=shape("int32", rows, length))
  new, _ = jax.eval_shape(
    update.make(model, cfg.learn, tx), state, batch)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == (
    jax.tree.map(lambda x: (x.shape, x.dtype), state))


@pytest.mark.parametrize("preset", llada_8b.ONE_GPU_PRESETS)
def test_one_gpu_trains_adapters_on_a_frozen_model(preset):
  module = importlib.import_module("configs.bgpo")
  cfg = validate.from_dict(module.get_config(preset))
  assert cfg.lora.rank and cfg.model.param_dtype == "bfloat16"
  assert cfg.mesh.data * cfg.mesh.fsdp * cfg.mesh.tensor == 1
  sampler = cfg.rollout.sampler
  assert (sampler.gen_length, sampler.cache != "none") == (256, True)
  # What all devices hold of it, without activations and rollouts.
  model = transformer.build(cfg.model, 126336, cfg.lora)
  params = jax.eval_shape(model.init, jax.random.key(0))
  bytes_of = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(params))
  adapters = sum(
    x.size for x in jax.tree.leaves(lora.shapes(params, cfg.lora)))
  assert bytes_of + 4 * 4 * adapters < 25e9
  with pytest.raises(ValueError, match="unknown preset"):
    module.get_config(preset + "s")


METHODS = [name for name in names.shipped() if name not in ("sft", "stp")]


@pytest.mark.parametrize("preset", llada_8b.PRESETS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_preset_of_every_task(method, preset):
  module = importlib.import_module(f"configs.{method}")
  cfg = validate.from_dict(module.get_config(preset))
  assert "dlrl" in tasks.find(cfg.task).prompts
  assert cfg.rollout.sampler.gen_length in (256, 512)
  assert cfg.learn.optimizer.learning_rate < 1e-5
  assert cfg.model.layers == (32 if preset.startswith("llada") else 28)


@pytest.mark.parametrize(("method", "task", "rank"), [
  ("wd1", "math", 128), ("espo", "math", 128), ("espo", "code", 0),
  ("bgpo", "math", 0)])
def test_adapters_are_trained_where_the_paper_does(method, task, rank):
  module = importlib.import_module(f"configs.{method}")
  cfg = validate.from_dict(module.get_config("llada_8b_" + task))
  assert cfg.lora.rank == rank
  assert cfg.model.param_dtype == ("bfloat16" if rank else "float32")
  if rank:
    assert cfg.lora.scale == 0.5
    assert lora.names(cfg.lora) == lora.MATRICES


def test_bgpos_settings_are_those_of_its_table():
  for task, (name, length, steps, updates, samples) in {
      "math": ("gsm8k+math", 512, 256, 700, 16),
      "code": ("mbpp", 512, 512, 560, 16),
      "sudoku": ("sudoku", 256, 128, 400, 32),
      "countdown": ("countdown", 256, 128, 560, 16)}.items():
    cfg = validate.from_dict(llada_8b.base("llada_8b_" + task))
    sampler = cfg.rollout.sampler
    assert (cfg.task.name, sampler.gen_length, sampler.steps, cfg.steps,
            cfg.learn.n_mc) == (name, length, steps, updates, samples)
    assert (sampler.block_length, cfg.rollout.prompts, cfg.rollout.group_size,
            cfg.learn.optimizer.learning_rate) == (32, 16, 8, 5e-7)
    assert cfg.eval.sampler.steps == cfg.eval.sampler.gen_length == length


def test_dream_has_the_published_number_of_parameters():
  cfg = validate.from_dict(llada_8b.base("dream_7b_math"))
  model = transformer.build(cfg.model, 151666)
  params = jax.eval_shape(model.init, jax.random.key(0))
  # Of the published checkpoint's index, in bytes of bfloat16.
  assert 2 * sum(x.size for x in jax.tree.leaves(params)) == 15231233024


@pytest.mark.parametrize(("method", "cache"), [
  ("bgpo", "prefix"), ("elbo_reinforce", "prefix"), ("vrpo_online", "prefix"),
  ("diffu_grpo", "none"), ("espo", "none"), ("trace_rl", "none")])
def test_rollouts_are_cached_where_the_published_ones_are(method, cache):
  module = importlib.import_module(f"configs.{method}")
  for prefix in llada_8b.PREFIX:
    cfg = validate.from_dict(module.get_config(f"{prefix}math"))
    assert cfg.rollout.sampler.cache == cache
    assert cfg.eval.sampler.cache == "none"
    # A cached pass is too short to gather the weights in each.
    cached = cache == "prefix"
    assert cfg.rollout.sampler.gather_once == cached
    assert cfg.mesh.tensor == 1 + cached
