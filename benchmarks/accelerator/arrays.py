"""Weights, states and batches, made on the devices."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import straightforward
from dlrl import optimizer
from dlrl import update
from dlrl.run import setup as setup_lib
from dlrl.run import start_params
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib


def weights(abstract: Any) -> Any:
  """Random parameters of these shapes, where their shardings say."""
  return make_weights(abstract)()


def make_weights(abstract: Any) -> Any:
  """The jitted program of `weights`.

  `model.init` takes long to compile, and draws whole stacks of layers in fp32.
  """
  def one(path: Any, leaf: Any) -> jax.Array:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if name.endswith("scale"):
      return jnp.ones(leaf.shape, leaf.dtype)
    parts = math.gcd(leaf.shape[0], 16)  # or random bits would be the peak
    shape = (leaf.shape[0] // parts, *leaf.shape[1:])
    most = (3 / leaf.shape[-2 if name.endswith("kernel") else -1]) ** 0.5
    key = jax.random.fold_in(jax.random.key(0), sum(map(ord, name)))
    return jax.lax.map(
      lambda key: jax.random.uniform(key, shape, leaf.dtype, -most, most),
      jax.random.split(key, parts)).reshape(leaf.shape)

  return jax.jit(lambda: jax.tree.map_with_path(one, abstract),
                 out_shardings=setup_lib.shardings_of(abstract))


def state(setup: setup_lib.Setup) -> update.TrainState:
  """The state before the first update."""
  tx = optimizer.for_rl(setup.cfg)
  make, _ = train_state.maker(
    setup, tx, functools.partial(train_state.first_state_of_rl, setup, tx),
    says=False)
  params = weights(setup.abstract_params())
  if not setup.cfg.lora.rank:
    return make(params)
  return make(setup.init_policy(start_params.Base(params)))


def batch(setup: setup_lib.Setup) -> update.Batch:
  """Random completions, all of which have an advantage."""
  return jax.jit(
    functools.partial(straightforward.inputs, setup.cfg, setup.model.mask_id),
    out_shardings=mesh_lib.batch_sharding(setup.mesh))()


def batch_shapes(setup: setup_lib.Setup) -> update.Batch:
  """Shapes of `batch`, with shardings."""
  shapes = jax.eval_shape(
    functools.partial(straightforward.inputs, setup.cfg, setup.model.mask_id))
  rows = mesh_lib.batch_sharding(setup.mesh)
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
    x.shape, x.dtype, sharding=rows), shapes)
