import dataclasses

import jax
import jax.numpy as jnp
import networks
import pytest
import updates
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from configs import bgpo
from dlrl import config
from dlrl import strict
from dlrl import update
from dlrl import validate
from dlrl.costs import memory
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib


def shapes():
  mesh = mesh_lib.make(config.MeshConfig(data=1, fsdp=4, tensor=2))

  def one(shape, dtype, *spec):
    return jax.ShapeDtypeStruct(
      shape, dtype, sharding=NamedSharding(mesh, P(*spec)))

  return {"w": one((8, 6), "float32", "fsdp", "tensor"),
          "b": one((6,), "bfloat16")}


def test_bytes_are_those_of_the_arrays_on_a_device():
  tree = shapes()
  assert memory.per_device(tree) == 8 * 6 * 4 // 8 + 6 * 2
  arrays = jax.tree.map(
    lambda s: jax.device_put(jnp.zeros(s.shape, s.dtype), s.sharding), tree)
  held = sum(x.addressable_shards[0].data.nbytes
             for x in jax.tree.leaves(arrays))
  assert memory.per_device(arrays) == held
  four_bits = jax.ShapeDtypeStruct(
    (8, 6), "uint4", sharding=tree["w"].sharding)
  assert memory.per_device(four_bits) == 8 * 6 // 2 // 8


def test_a_device_has_whole_gradients_of_adapters_and_parts_of_others():
  def gradients(base):
    state = update.TrainState(
      step=None, params=shapes(), opt_state=None, key=None, base=base)
    return memory.parts(state)["gradients"]

  assert memory.per_device(gradients(None)) == 8 * 6 * 4 // 8 + 6 * 4
  assert memory.per_device(gradients({})) == 8 * 6 * 4 // 2 + 6 * 4


def test_the_line_lists_the_parts_and_their_sum():
  big = jax.ShapeDtypeStruct(
    (2**29,), "float32",
    sharding=jax.sharding.SingleDeviceSharding(jax.devices()[0]))
  line = memory.estimate(
    {"parameters": big, "reference": None, "optimizer": (big, big)},
    {"data": 1, "fsdp": 1, "tensor": 1})
  assert line == ("memory per device: parameters 2.0 GiB, optimizer 4.0 GiB; "
                  "together 6.0 GiB, without activations")


def test_more_than_a_device_has_is_an_error_before_anything_is_made(
    monkeypatch, capsys):
  cfg = validate.from_dict(bgpo.get_config("smoke"))
  setup = setup_lib.make(cfg)
  train_state.for_rl(setup)
  train_state.for_sft(setup)  # its warm start, within the same memory
  assert capsys.readouterr().out.count("memory per device: parameters") == 1
  train_state.for_sft(dataclasses.replace(
    setup, cfg=dataclasses.replace(cfg, job="sft")))
  assert capsys.readouterr().out.count("memory per device: parameters") == 1

  class Device:
    def memory_stats(self):
      return {"bytes_limit": 2**20}

  monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
  with pytest.raises(strict.ConfigError, match="which has") as error:
    train_state.for_rl(setup)
  assert error.value.field == "mesh.fsdp"


@pytest.mark.parametrize("rank, field, hint", [
  (0, "lora.rank", "such as --config=bgpo:llada_8b_math_1gpu"),
  (8, "mesh.fsdp", "with more devices")])
def test_one_device_is_told_of_adapters_not_of_more_parts(
    monkeypatch, rank, field, hint):
  cfg = bgpo.get_config("smoke")
  cfg.lora.rank, cfg.sft.steps = rank, 0
  setup = setup_lib.make(validate.from_dict(cfg), jax.devices()[:1])

  class Device:
    def memory_stats(self):
      return {"bytes_limit": 2**10}

  monkeypatch.setattr(jax, "local_devices", lambda: [Device()])
  with pytest.raises(strict.ConfigError, match=hint) as error:
    train_state.for_rl(setup)
  assert error.value.field == field


def test_gradients_take_one_accumulator_and_those_of_a_draw():
  # Wide, so that nothing but parameters counts.
  model = transformer.build(dataclasses.replace(
    networks.TINY, width=256, mlp_width=512), updates.MASK)
  params = networks.shapes_of(model)
  whole = sum(4 * x.size for x in jax.tree.leaves(params))
  batch = jax.eval_shape(updates.make_batch)

  learn = dataclasses.replace(updates.LEARN, micro_batch=2, n_mc=4)
  program = jax.jit(lambda params, batch: update.batch_grads(
    model, learn, params, batch))
  temporaries = program.lower(params, batch).compile(
    updates.FAST).memory_analysis().temp_size_in_bytes
  # 1.8; an accumulator for draws beside one for micro-batches: 2.8.
  assert temporaries < 2.2 * whole
