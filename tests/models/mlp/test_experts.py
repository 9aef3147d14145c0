"""A mixture of experts against one that computes all of them, in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flax import nnx

from dlrl import config
from dlrl import strict
from dlrl.costs.flops import flops
from dlrl.models import layers
from dlrl.models import transformer
from dlrl.models.mlp import exchange
from dlrl.models.mlp import experts as experts_lib
from dlrl.runtime import mesh as mesh_lib

EXPERTS = config.ExpertsConfig(
  8, 3, 12, shared_width=8, router="sigmoid", scale=2.5, groups=4,
  groups_per_token=2)
CFG = dataclasses.replace(networks.TINY, experts=EXPERTS)
ROUTERS = {
  "sigmoid": CFG,
  "softmax": dataclasses.replace(
    CFG, experts=config.ExpertsConfig(8, 3, 12))}


def mixture(cfg=CFG, seed=0):
  made = experts_lib.Mixture(cfg, rngs=nnx.Rngs(seed))
  if cfg.experts.router == "sigmoid":
    made.router.bias[...] = jax.random.normal(
      jax.random.key(seed), (cfg.experts.number,)) / 8
  return nnx.split(made)


def tokens(b=4, t=6, d=CFG.width, seed=1):
  return jax.random.normal(jax.random.key(seed), (b, t, d))


def dense(params, cfg, x, live):
  """All experts of all tokens, times weights that are mostly zero.

  Plain products without a permutation; in float64 if its arguments are.
  """
  logits = x @ params["router"]["kernel"]
  score = (jax.nn.softmax(logits) if cfg.router == "softmax"
           else jax.nn.sigmoid(logits))
  ranked = score + jnp.broadcast_to(
    params["router"].get("bias", jnp.zeros(cfg.number)), score.shape)
  grouped = ranked.reshape(*ranked.shape[:-1], cfg.groups, -1)
  best = jnp.sort(grouped, -1)[..., -2:].sum(-1)
  keep = best >= jnp.sort(best, -1)[..., -cfg.groups_per_token, None]
  ranked = jnp.where(keep[..., None], grouped, -jnp.inf).reshape(ranked.shape)
  chosen = ranked >= jnp.sort(ranked, -1)[..., -cfg.per_token, None]
  weights = jnp.where(chosen, score, 0)
  weights *= cfg.scale / weights.sum(-1, keepdims=True)

  def swiglu(w, x):
    return (jax.nn.silu(x @ w["gate"]["kernel"])
            * (x @ w["up"]["kernel"])) @ w["down"]["kernel"]

  every = jax.vmap(swiglu, (0, None), -2)(params["experts"], x)
  y = jnp.sum(every * weights[..., None], -2) * live[..., None]
  return y + swiglu(params["shared"], x) if cfg.shared_width else y


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_values_and_gradients_are_those_of_all_experts_in_float64(
    name, padded):
  cfg = ROUTERS[name]
  definition, state = mixture(cfg)
  params, x = nnx.to_pure_dict(state), tokens()
  live = (jnp.arange(6)[None] < jnp.array([6, 1, 3, 5])[:, None]
          if padded else jnp.ones((4, 6), bool))
  towards = tokens(seed=9)

  def ours(params, x):
    made = nnx.merge(definition, params)
    return jnp.sum(made(x, live if padded else None) * towards)

  value, grads = jax.value_and_grad(ours, (0, 1))(params, x)
  with jax.enable_x64(True):
    exact = jax.tree.map(
      lambda a: jnp.asarray(np.asarray(a), jnp.float64), (params, x))
    weight = jnp.asarray(np.asarray(towards), jnp.float64)
    want, wanted = jax.value_and_grad(lambda params, x: jnp.sum(
      dense(params, cfg.experts, x, live) * weight), (0, 1))(*exact)
    # Numbers of JAX's default dtype are compared outside.
    want, wanted = jax.tree.map(np.asarray, (want, wanted))
  np.testing.assert_allclose(value, want, rtol=1e-5)
  jax.tree.map(lambda got, want: np.testing.assert_allclose(
    got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max() + 1e-12),
    grads, wanted)


@pytest.mark.slow
def test_padding_is_computed_by_no_expert(monkeypatch):
  seen = []

  def apply(frozen, trained, rows, sizes):
    seen.append(sizes)
    return rows

  monkeypatch.setattr(experts_lib, "_swiglu", apply)
  made = nnx.merge(*mixture())
  live = jnp.arange(6)[None] < jnp.array([6, 1, 0, 5])[:, None]
  made(tokens(), live)
  assert int(seen[0].sum()) == 12 * EXPERTS.per_token
  made(tokens(), None)
  assert int(seen[1].sum()) == 24 * EXPERTS.per_token


@pytest.mark.slow
def test_what_kernels_write_where_there_is_no_group_is_ignored():
  def apply(frozen, trained, rows, sizes):
    inside = jnp.arange(len(rows)) < sizes.sum()
    return jnp.where(inside[:, None], 2 * rows, jnp.nan)

  rows, experts = jnp.ones((6, 2)), jnp.array([1, 4, 0, 4, 2, 3])[:, None]

  def total(rows):
    return exchange.computed(
      rows, experts, jnp.ones((6, 1)), 4, apply).sum()

  assert total(rows) == 16.0
  np.testing.assert_array_equal(
    jax.grad(total)(rows)[:, 0], [2, 0, 2, 0, 2, 2])


BLOCKS = config.ModelConfig(
  vocab_size=64, width=32, layers=3, heads=4, kv_heads=4, head_dim=8,
  mlp_width=48, block_length=4, qk_norm=True, rotary_dim=4, remat="none",
  experts=config.ExpertsConfig(
    8, 3, 16, shared_width=16, dense_layers=1, router="sigmoid", scale=2.5,
    groups=4, groups_per_token=2))
LENGTHS = jnp.array([12, 12, 3, 7, 12, 9, 12, 5])


def squares(model, params):
  """A loss of noisy rows of different lengths."""
  ids = jax.random.randint(jax.random.key(1), (8, 12), 0, 48)
  live = jnp.arange(12)[None, :, None] < LENGTHS[:, None, None]
  logits = model.noisy_logits(params, ids, ids, LENGTHS)
  return jnp.sum(jnp.where(live, logits, 0) ** 2)


@pytest.mark.slow
@pytest.mark.parametrize("skew", [0.0, 10.0], ids=["even", "skewed"])
@pytest.mark.parametrize("mesh", [
  (1, 1, 1, 8), (1, 2, 1, 4), (2, 1, 2, 2), (1, 2, 2, 2)], ids=str)
def test_experts_on_several_devices_compute_the_same(unoptimized, mesh, skew):
  """Also if all tokens go to experts of few devices, in several rounds."""
  model = transformer.build(BLOCKS, 49)
  params = model.init(jax.random.key(0))
  bias = params["layers"]["mlp"]["router"]["bias"]
  params["layers"]["mlp"]["router"]["bias"] = bias.at[:, :3].add(skew)

  def run(params):
    return jax.value_and_grad(lambda p: squares(model, p))(params)

  want = jax.jit(run)(params)
  devices = mesh_lib.make(config.MeshConfig(*mesh))
  shardings = mesh_lib.param_shardings(devices, layers.SHARDING, params)
  with jax.set_mesh(devices):
    got = jax.jit(run, out_shardings=(None, shardings))(
      jax.device_put(params, shardings))
  jax.tree.map(lambda got, want: np.testing.assert_allclose(
    got, want, rtol=1e-4, atol=2e-5 * np.abs(want).max()), got, want)


@pytest.mark.parametrize("n", [1, 5, 128, 300])
def test_ranks_count_rows_of_the_same_kind(n):
  kinds = np.random.default_rng(n).integers(0, 6, n)
  rank, sizes = exchange._ranks(jnp.array(kinds), 5)
  for i in np.flatnonzero(kinds < 5):
    assert rank[i] == np.sum(kinds[:i] == kinds[i])
  assert sizes.tolist() == [np.sum(kinds == kind) for kind in range(5)]


def test_a_round_has_room_for_a_quarter_more_than_the_mean():
  assert exchange.capacity(64, 4) == 24  # 20, in eights
  assert exchange.capacity(10, 8) == 8
  assert exchange.capacity(4, 8) == 4  # there are no more rows
  assert exchange.capacity(4096, 2) == 2560


@pytest.mark.parametrize(("changes", "field"), [
  (dict(router="top"), "router"),
  (dict(width=0), "width"),
  (dict(per_token=9), "per_token"),
  (dict(per_token=5), "per_token"),
  (dict(groups=3, groups_per_token=3), "groups"),
  (dict(groups=8, groups_per_token=4), "groups"),
  (dict(groups_per_token=5), "groups_per_token"),
  (dict(dense_layers=2), "dense_layers")])
def test_mixtures_that_make_no_sense_are_refused(changes, field):
  experts = dataclasses.replace(EXPERTS, **changes)
  with pytest.raises(
      strict.ConfigError, match=rf"config\.model\.experts\.{field} = "):
    transformer.build(dataclasses.replace(CFG, experts=experts), 2)


@pytest.mark.parametrize("devices", [1, 8])
def test_a_gradient_takes_four_forward_passes(devices):
  """The experts' rounds are computed again instead of, not besides, layers."""
  cfg = dataclasses.replace(
    CFG, width=32, remat="full", experts=config.ExpertsConfig(8, 3, 64))
  model = transformer.build(cfg, 2)
  params = jax.eval_shape(model.init, jax.random.key(0))
  ids, lengths = jnp.zeros((8, 64), jnp.int32), jnp.full(8, 64)
  positions = jnp.broadcast_to(jnp.arange(64), (8, 64))

  def loss(params):
    return jnp.sum(model.hidden(params, ids, positions, lengths))

  mesh = mesh_lib.make(
    config.MeshConfig(1, 1, 1, devices), jax.devices()[:devices])
  with jax.set_mesh(mesh):
    assert flops(jax.grad(loss), params) == 4 * flops(loss, params)
