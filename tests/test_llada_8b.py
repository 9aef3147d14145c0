"""The large presets: the published size, and updates that can be traced."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import pytest

from configs import llada_8b
from dlrl import config_check
from dlrl import train
from dlrl import update
from dlrl.models import lora
from dlrl.models import transformer
from dlrl.runtime import optimizer

PRESET = llada_8b.PREFIX + "sudoku"


@pytest.mark.parametrize("method", ["bgpo", "espo", "diffu_grpo", "trace_rl"])
def test_an_update_of_eight_billion_parameters_has_its_shapes(method):
  module = importlib.import_module(f"configs.{method}")
  cfg = config_check.from_dict(module.get_config(PRESET))
  model = transformer.build(cfg.model, 126336, cfg.lora)
  params = jax.eval_shape(model.init, jax.random.key(0))
  # Of the published checkpoint's index.
  assert sum(x.size for x in jax.tree.leaves(params)) == 8_015_581_184
  adapted = method in ("diffu_grpo", "espo")
  trained = lora.shapes(params, cfg.lora) if adapted else params
  tx = optimizer.make(cfg.learn.optimizer, 10)
  state = jax.eval_shape(lambda p: update.State(
    jnp.int32(0), p, tx.init(p), jax.random.key_data(jax.random.key(0)),
    train.first_reference(cfg, p)), trained)
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


@pytest.mark.parametrize("task", sorted(llada_8b.LENGTHS))
@pytest.mark.parametrize("method", [
  "bgpo", "diffu_grpo", "spg", "stable_drl", "vrpo_offline", "cj_grpo"])
def test_every_task_has_its_settings(method, task):
  module = importlib.import_module(f"configs.{method}")
  cfg = config_check.from_dict(module.get_config(llada_8b.PREFIX + task))
  assert cfg.task.name == task
  assert cfg.rollout.sampler.gen_length == llada_8b.LENGTHS[task]
