"""The update on meshes of eight devices against that on one."""

import dataclasses
import functools
import math

import jax
import networks
import numpy as np
import optax
import pytest
from updates import FAST
from updates import assert_same
from updates import first_state
from updates import make_batch

from dlrl import config
from dlrl import optimizer
from dlrl import update
from dlrl.models import char_tokenizer
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.run import train_state

SHARDED = config.Config(
  model=networks.SHARDED,
  learn=config.LearnConfig(n_mc=2, micro_batch=8),
)


@functools.cache
def on_one_device():
  """(params, batch, new state, metrics) without a mesh."""
  model = transformer.build(
    SHARDED.model, char_tokenizer.CharTokenizer().mask_id)
  params = networks.random_params(model)
  batch = make_batch(b=16, vocab=64)
  tx = optimizer.make(SHARDED.learn.optimizer, 10)
  state, metrics = jax.jit(
    update.make(model, SHARDED.learn, tx), compiler_options=FAST)(
      first_state(params, tx), batch)
  return params, batch, state, metrics


def moments(state):
  """(mu, nu) of the Adam inside `optimizer.make`."""
  return (optax.tree.get(state.opt_state, "mu"),
          optax.tree.get(state.opt_state, "nu"))


def assert_split(tree, shardings, mesh):
  """Every larger leaf is cut into as many parts as its spec says."""
  def one(path, leaf, sharding):
    parts = math.prod(mesh.shape[axis] for axis in sharding.spec if axis)
    if leaf.size > 1000 and parts > 1:
      name = networks.path_of(path)
      sizes = {s.data.size for s in leaf.addressable_shards}
      assert sizes == {leaf.size // parts}, name
      return 1
    return 0

  return sum(jax.tree.leaves(jax.tree.map_with_path(one, tree, shardings)))


@pytest.mark.slow
@pytest.mark.parametrize(
  "sizes", [(2, 2, 2), (8, 1, 1)],
  ids=lambda sizes: "x".join(map(str, sizes)))
def test_a_mesh_changes_where_things_are_and_not_what_they_are(sizes):
  params, batch, want, want_metrics = on_one_device()
  setup = setup_lib.make(
    dataclasses.replace(SHARDED, mesh=config.MeshConfig(*sizes)))
  tx = optimizer.make(SHARDED.learn.optimizer, 10)
  make_state, abstract = train_state.maker(
    setup, tx, functools.partial(train_state.first_state, setup, tx))
  with jax.set_mesh(setup.mesh):
    state = make_state(jax.device_put(params, setup.param_shardings))
    state, metrics = jax.jit(
      update.make(setup.model, SHARDED.learn, tx), compiler_options=FAST,
      out_shardings=(setup_lib.shardings_of(abstract), None))(
        state, setup.put_batch(batch))
  for name, value in want_metrics.items():
    # A deviation from squares loses digits; nothing but a plot needs it.
    np.testing.assert_allclose(
      metrics[name], value, rtol=1e-3 if name == "score_std" else 1e-5,
      atol=1e-6, err_msg=name)
  assert_same(moments(state)[0], moments(want)[0])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
    a, b, rtol=0, atol=1e-5), state.params, want.params)
  assert any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(
    jax.tree.leaves(want.params), jax.tree.leaves(params), strict=True))

  found = [assert_split(tree, setup.param_shardings, setup.mesh)
           for tree in (state.params, *moments(state))]
  assert found == [9 if max(sizes[1:]) > 1 else 0] * 3
