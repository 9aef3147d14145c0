"""The load of a mixture's experts, by a count of its own, in logs and alone."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import nnx

from dlrl import config
from dlrl import rollout
from dlrl import update
from dlrl.models import layers
from dlrl.models import transformer
from dlrl.models.mlp import exchange
from dlrl.run import expert_load
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib

MODEL = dataclasses.replace(
  networks.TINY, vocab_size=40, layers=3, experts=config.ExpertsConfig(
    8, 2, 12, dense_layers=1, router="sigmoid", groups=4, groups_per_token=2))
BLOCKS = dataclasses.replace(MODEL, block_length=4)
LENGTHS = np.array([9, 3, 6, 9, 1, 9, 9, 5])


def rows():
  ids = np.random.default_rng(0).integers(4, 40, (8, 9))
  return jnp.array(ids), jnp.array(LENGTHS)


def counted(model, params, ids, lengths):
  """Tokens per layer and expert, token by token, and mean entropies."""
  network, cfg = model._network(params), model.cfg
  positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
  blocks = positions // cfg.block_length if cfg.block_length else None
  turn = layers.rotation(positions, cfg.head_dim, cfg.rope_theta)
  x, found, entropies = network._lookup(ids), [], []
  for name in network.stacks:
    definition, stacked = nnx.split(getattr(network, name))
    for i in range(len(jax.tree.leaves(stacked)[0])):
      layer = nnx.merge(definition, jax.tree.map(lambda w, i=i: w[i], stacked))
      if name == "layers":
        y, _ = layer.attention(
          layer.attention_norm(x), turn, lengths, blocks=blocks)
        h = layer.mlp_norm(x + y)
        experts = np.asarray(layer.mlp.router(h).experts)
        scores = np.asarray(jax.nn.sigmoid(layer.mlp.router.logits(h)))
        count, entropy = np.zeros(cfg.experts.number, int), []
        for b, length in enumerate(LENGTHS):
          for t in range(length):
            p = scores[b, t] / scores[b, t].sum()
            entropy.append(-(p * np.log(p)).sum())
            for e in experts[b, t]:
              count[e] += 1
        found.append(count)
        entropies.append(np.mean(entropy))
      x, _ = layer(x, turn, lengths, blocks=blocks)
  return np.array(found), np.array(entropies)


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [MODEL, BLOCKS], ids=["full", "blocks"])
def test_the_load_is_that_of_a_count_token_by_token(cfg):
  model = transformer.build(cfg, 2)
  params = networks.random_params(model)
  want, entropy = counted(model, params, *rows())
  got = model.expert_load(params, *rows())
  np.testing.assert_array_equal(got.tokens, want)
  np.testing.assert_allclose(got.entropy, entropy, rtol=1e-5)
  np.testing.assert_array_equal(got.dropped, 0)
  assert want.sum() == 2 * 2 * LENGTHS.sum()  # layers, experts per token


@pytest.mark.slow
def test_devices_count_together_and_see_what_is_dropped(monkeypatch):
  model = transformer.build(BLOCKS, 2)
  params = networks.random_params(model)
  want = model.expert_load(params, *rows())
  mesh = mesh_lib.make(config.MeshConfig(1, 2, 1, 4))
  placed = jax.device_put(
    params, mesh_lib.param_shardings(mesh, layers.SHARDING, params))
  with jax.set_mesh(mesh):
    got = jax.jit(model.expert_load)(placed, *rows())
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_allclose(got.entropy, want.entropy, rtol=1e-5)
    np.testing.assert_array_equal(got.dropped, 0)
    # Without further rounds, an expert has room for eight rows of a device.
    monkeypatch.setattr(
      exchange, "_loop",
      lambda another, start, room, most: another((jnp.int32(0), start))[1])
    monkeypatch.setattr(exchange, "capacity", lambda rows, parts: 2)
    params["layers"]["mlp"]["router"]["bias"] = (
      params["layers"]["mlp"]["router"]["bias"].at[:, :2].add(100.0))
    got = jax.jit(lambda *args: model.expert_load(*args))(params, *rows())
  assert got.dropped.min() > 0


@pytest.mark.slow
def test_a_run_logs_the_load_of_each_layer():
  cfg = config.Config(
    model=MODEL, task=config.TaskConfig(name="sudoku", prompt_length=20),
    learn=config.LearnConfig(micro_batch=8),
    rollout=config.RolloutConfig(prompts=4, group_size=2, expert_load_every=3))
  setup = setup_lib.make(cfg)
  rng = np.random.default_rng(0)
  batch = update.Batch(
    prompt=jnp.array(rng.integers(4, 40, (8, 20))),
    prompt_length=jnp.arange(8) + 3,
    completion=jnp.array(rng.integers(4, 40, (8, 16))),
    maskable=jnp.ones((8, 16), bool),
    keys=jax.random.split(jax.random.key(0), 8))
  params = networks.random_params(setup.model)
  # With so large a bias, all tokens would have the same experts.
  params["layers"]["mlp"]["router"]["bias"] *= 0
  state = update.TrainState(
    step=jnp.int32(0), params=params, opt_state=None, key=None)
  measure = rollout.measurements(setup)
  assert measure(2, state, batch) == measure(3, state, batch) == {}
  found = measure(4, state, batch)
  assert found.keys() == {
    "experts/load", "experts/dropped", "experts/load/01", "experts/load/02",
    "experts/entropy/01", "experts/entropy/02"}
  ids = np.zeros((8, 36), int)
  for i, n in enumerate(np.asarray(batch.prompt_length)):
    ids[i, :n] = batch.prompt[i, :n]
    ids[i, n:n + 16] = batch.completion[i]
  want = setup.model.expert_load(
    params, jnp.array(ids), batch.prompt_length + 16)
  share = want.tokens / want.tokens.sum(-1, keepdims=True) * 8
  np.testing.assert_allclose(
    found["experts/load/02"], share[1].max(), rtol=1e-5)
  np.testing.assert_allclose(found["experts/load"], share.max(), rtol=1e-5)
  assert found["experts/dropped"] == 0
  assert 0 < found["experts/entropy/01"] < np.log(8)
  never = dataclasses.replace(cfg, rollout=dataclasses.replace(
    cfg.rollout, expert_load_every=0))
  assert expert_load.make(setup_lib.make(never))(1, state, batch) == {}
