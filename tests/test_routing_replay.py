"""Updates that replay the experts of the parameters that made the rollout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import mixtures
import networks
import numpy as np
import optax
import pytest
import runs
from updates import FAST
from updates import assert_same
from updates import first_state
from updates import make_batch

from dlrl import config
from dlrl import losses
from dlrl import scoring
from dlrl import strict
from dlrl import update
from dlrl.models import layers
from dlrl.models import lora
from dlrl.models import transformer
from dlrl.models.mlp import experts
from dlrl.models.mlp import router
from dlrl.runtime import mesh as mesh_lib

MASK, B, N_MC, GROUP, K = 2, 8, 3, 2, 2
LAYERS = 2  # that have experts
FULL = dataclasses.replace(
  networks.TINY, layers=LAYERS, experts=config.ExpertsConfig(
    8, K, 12, shared_width=8, router="sigmoid", scale=2.5, groups=4,
    groups_per_token=2))
BLOCKS = dataclasses.replace(
  FULL, block_length=2, layers=1 + LAYERS, experts=dataclasses.replace(
    FULL.experts, dense_layers=1))
KINDS = {"full": (FULL, "stratified"), "blocks": (BLOCKS, "block_stratified")}
LEARN = config.LearnConfig(
  loss="unigrpo", score_norm="none", n_mc=N_MC, micro_batch=B, logps_chunk=5,
  epochs=2, replay_routing=True)
TX = optax.apply_if_finite(optax.sgd(0.5), 10)
LORA = config.LoraConfig(rank=2, targets="layers/attention/.*")


@functools.cache
def made(kind, **changes):
  cfg, process = KINDS[kind]
  model = transformer.build(dataclasses.replace(cfg, **changes), MASK)
  params = networks.random_params(model)
  # Or it would choose the same experts for most tokens.
  params["layers"]["mlp"]["router"]["bias"] *= 0.1
  return model, params, dataclasses.replace(LEARN, forward_process=process)


def moved(params):
  """Other parameters, with a router that chooses other experts."""
  params = jax.tree.map(lambda x: x + 0.02 * jnp.sin(40 * x), params)
  mlp = params["layers"]["mlp"]
  mlp["router"]["kernel"] = -mlp["router"]["kernel"]
  return params


@functools.cache
def batch():
  """Groups of two completions with the same prompt, of 2 to 6 tokens."""
  rows = make_batch()
  first = np.arange(B) // GROUP * GROUP
  return dataclasses.replace(
    rows, prompt=rows.prompt[first],
    prompt_length=jnp.asarray([2, 2, 6, 6, 3, 3, 5, 5], jnp.int32),
    maskable=jnp.arange(5)[None] < jnp.array([5, 4, 3, 5, 1, 2, 5, 4])[:, None])


@functools.partial(jax.jit, static_argnums=(0, 1, 2), compiler_options=FAST)
def logps_of(model, learn, records, params, rows):
  return scoring.batch_logps(
    model, learn, params, rows, GROUP, records=records)


@functools.cache
def routing_of(kind):
  model, params, learn = made(kind)
  return logps_of(model, learn, True, params, batch())[2]


def by_layers(flat):
  """Recorded experts [b, m] as [layers, b, columns, k]."""
  return np.moveaxis(np.reshape(flat, (len(flat), LAYERS, -1, K)), 1, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_recorded_experts_are_those_that_float64_chooses(kind, monkeypatch):
  model, params, learn = made(kind)
  params = jax.tree.map(jnp.copy, params)
  rng = np.random.default_rng(7)
  gate = params["layers"]["mlp"]["router"]
  gate["bias"] = jnp.asarray(rng.normal(0, 0.3, gate["bias"].shape), "float32")
  seen, logits_of = [], router.Router.logits

  def logits(self, x):
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), x, ordered=True)
    return logits_of(self, x)

  monkeypatch.setattr(router.Router, "logits", logits)
  found = jax.jit(functools.partial(
    scoring.batch_logps, model, learn, records=True), compiler_options=FAST)(
      params, batch())[2]
  jax.effects_barrier()
  passes = [*map(by_layers, found.shared),
            *(by_layers(found.noisy[:, j]) for j in range(N_MC))]
  assert found.noisy.dtype == np.uint8
  # With blocks the prompts' whole blocks, and the clean rows, come first.
  assert len(passes) == {"full": 3, "blocks": 5}[kind]
  states = iter(seen)
  for each in passes:
    for i, chosen in enumerate(each):
      x = np.float64(next(states)).reshape(-1, FULL.width)
      for row, got in zip(x @ np.float64(gate["kernel"][i]),
                          chosen.reshape(-1, K), strict=True):
        assert got.tolist() == mixtures.routed_by_hand(
          row, gate["bias"][i], FULL.experts)[0]
  assert next(states, None) is None
  assert len(np.unique(found.noisy)) > 4


def test_more_experts_than_a_byte_counts_have_two(unoptimized):
  cfg = dataclasses.replace(FULL, experts=config.ExpertsConfig(257, 1, 4))
  model = transformer.build(cfg, MASK)
  params = networks.random_params(model)
  params["layers"]["mlp"]["router"]["kernel"] = jnp.zeros(
    (LAYERS, 16, 257)).at[:, :, 256].set(jnp.ones(16))
  *_, found = scoring.batch_logps(
    model, dataclasses.replace(LEARN, n_mc=1), params, batch(), records=True)
  assert found.noisy.dtype == np.uint16
  assert np.unique(found.noisy).tolist() == [0, 256]


def all_experts(passes):
  """In place of `Mixture.__call__`: all experts, and a sum of those given.

  The routers' biases, which do not weigh, say which layer one is of.

  Args:
    passes: experts [layers, b, columns, k] of the passes to come; each is taken
      out by its pass.
  """
  def call(self, x, live):
    layer = self.router.bias.get_value()[0].astype(int)
    given = passes.pop(0)[layer]
    gate, up, down = (getattr(self.experts, name).kernel.get_value()
                      for name in ("gate", "up", "down"))
    hidden = jax.nn.silu(jnp.einsum("btd,edf->btef", x, gate)) * jnp.einsum(
      "btd,edf->btef", x, up)
    every = jnp.einsum("btef,efd->bted", hidden, down)
    score = 1 / (1 + jnp.exp(-(x @ self.router.kernel.get_value())))
    weight = score * jnp.sum(jax.nn.one_hot(given, 8), -2)
    weight *= 2.5 / jnp.sum(weight, -1, keepdims=True)
    return jnp.einsum("bted,bte,bt->btd", every, weight, live) + self.shared(x)

  return call


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_replayed_scores_are_those_of_the_experts_recorded(kind, monkeypatch):
  model, before, learn = made(kind)
  params, routing = moved(before), routing_of(kind)
  gate = params["layers"]["mlp"]["router"]
  gate["bias"] = jnp.broadcast_to(
    jnp.arange(LAYERS, dtype=jnp.float32)[:, None], gate["bias"].shape)
  passes = []

  def score(params, rows, j, given=()):
    passes.extend(given)
    draw, (logps, _) = scoring.draw_logps(
      model, learn, params, rows, j,
      scoring.prepare(model, learn, params, rows, GROUP))
    assert not passes
    logps = jnp.where(draw.weight > 0, logps, 0.0)
    return jnp.sum(logps * jnp.cos(jnp.arange(B))[:, None]), logps

  def run():
    return jax.jit(jax.value_and_grad(score, has_aux=True),
                   compiler_options=FAST)

  replaying, rows = run(), dataclasses.replace(batch(), routing=routing)
  got = [replaying(params, rows, j) for j in range(N_MC)]
  *shared, = map(by_layers, routing.shared)
  if kind == "blocks":
    shared[0] = shared[0][:, ::GROUP]  # each prompt is computed once
  monkeypatch.setattr(experts.Mixture, "__call__", all_experts(passes))
  oracle = run()
  for j in range(N_MC):
    ((_, logps), grads), (want, slope) = got[j], oracle(
      params, batch(), j, [*shared, by_layers(routing.noisy[:, j])])
    np.testing.assert_allclose(logps, want[1], rtol=1e-4, atol=1e-5)
    assert not np.any(grads["layers"]["mlp"]["router"].pop("bias"))
    slope["layers"]["mlp"]["router"].pop("bias")
    assert_same(grads, slope, rtol=1e-4)
    assert jnp.abs(slope["layers"]["mlp"]["router"]["kernel"]).max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_at_the_same_parameters_a_replay_changes_nothing(kind):
  model, params, learn = made(kind)
  rows = dataclasses.replace(batch(), routing=routing_of(kind))
  want, got = (logps_of(model, learn, False, params, x)
               for x in (batch(), rows))
  np.testing.assert_array_equal(got[0], want[0])
  assert got[2] is want[2] is None


def trained(model, learn, params, ref=None, rows=None):
  """The state after `update.make`'s updates of one rollout, and metrics."""
  state = first_state(params, TX)
  if "adapter" in params:
    state = dataclasses.replace(
      first_state(params["adapter"], TX), base=params["base"])
  return jax.jit(update.make(model, learn, TX, GROUP), compiler_options=FAST)(
    dataclasses.replace(state, ref_params=ref), rows or batch())


def epoch(rows, i):
  """The rows with the draws of an epoch."""
  return dataclasses.replace(
    rows, keys=jax.vmap(jax.random.fold_in, (0, None))(rows.keys, i))


@pytest.mark.slow
def test_two_updates_are_those_of_a_plain_loop():
  model, start, learn = made("blocks")
  learn = dataclasses.replace(learn, micro_batch=2)
  loss_of = losses.OBJECTIVES["unigrpo"]().loss

  def of_draws(params, rows, old):
    def of_draw(j):
      draw, (logps, _) = scoring.draw_logps(model, learn, params, rows, j)
      return loss_of(
        losses.Scored(logps, old[:, j], None, *draw),
        losses.Responses(rows.advantage, rows.valid, jnp.ones(B)))[0]

    return jnp.mean(jax.lax.map(of_draw, jnp.arange(N_MC)))

  grad = jax.jit(jax.grad(of_draws), compiler_options=FAST)

  def by_loop(replays):
    params = start
    for i in range(2):
      rows = epoch(batch(), i)
      old, _, routing = logps_of(
        model, dataclasses.replace(learn, micro_batch=B), True, start, rows)
      if replays:
        rows = dataclasses.replace(rows, routing=routing)
      params = jax.tree.map(
        lambda p, g: p - 0.5 * g, params, grad(params, rows, old))
    return params

  got, metrics = trained(model, learn, start)
  assert_same(got.params, by_loop(True), rtol=2e-4)
  own, _ = trained(
    model, dataclasses.replace(learn, replay_routing=False), start)
  assert_same(own.params, by_loop(False), rtol=2e-4)
  apart = jax.tree.map(
    lambda a, b: float(jnp.abs(a - b).max()), got.params, own.params)
  assert max(jax.tree.leaves(apart)) > 1e-3
  assert metrics["grad_norm"] > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "changes", "parts"), [
  ("full", {"loss": "coupled_grpo", "forward_process": "coupled"},
   {"micro_batch": 2, "draws_at_once": 3}),
  ("blocks", {"loss": "espo", "loss_args": strict.Knobs(kl_coef=0.5),
              "updates_per_rollout": 2, "epochs": 1}, {"micro_batch": 2})],
  ids=["means of draws, at once", "joint, with a reference"])
def test_rows_and_draws_that_are_computed_together_change_nothing(
    kind, changes, parts):
  model, params, learn = made(kind)
  ref = networks.random_params(model, seed=4) if kind == "blocks" else None
  learn = dataclasses.replace(learn, **changes)
  want, metrics = trained(model, learn, params, ref=ref)
  got, _ = trained(model, dataclasses.replace(learn, **parts), params, ref=ref)
  assert_same(got.params, want.params, rtol=1e-4)
  assert metrics["grad_norm"] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("axes", "kind", "adapters"), [
  ((2, 2, 1, 2), "full", config.NO_LORA), ((1, 2, 2, 2), "blocks", LORA)],
  ids=["all parameters", "adapters"])
def test_a_mesh_changes_nothing(axes, kind, adapters):
  """Also with remat, which computes a layer's weights of experts again."""
  model, params, learn = made(kind, remat="full")
  if adapters.rank:
    model = dataclasses.replace(model, adapters=adapters)
    rng = np.random.default_rng(2)
    params = lora.join(params, jax.tree.map(
      lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype),
      lora.shapes(params, adapters)))
  want, _ = trained(model, learn, params)
  mesh = mesh_lib.make(config.MeshConfig(*axes))
  with jax.set_mesh(mesh):
    where = jax.tree.map(
      lambda spec: jax.sharding.NamedSharding(mesh, spec), layers.specs(params))
    got, _ = trained(
      model, learn, jax.device_put(params, where),
      rows=jax.device_put(batch(), mesh_lib.batch_sharding(mesh)))
  assert_same(got.params, want.params, rtol=1e-4)


@pytest.mark.slow
def test_memory_is_a_byte_per_layer_and_expert_of_a_token_and_draw():
  model, params, learn = made("full")

  def temporaries(n_mc):
    cfg = dataclasses.replace(learn, n_mc=n_mc)
    return jax.jit(update.make(model, cfg, TX, GROUP)).lower(
      first_state(params, TX), batch()).compile(
        FAST).memory_analysis().temp_size_in_bytes

  more = 512
  # Of two epochs, of rows of 11 columns; beside log-probs of 5 in fp32. An
  # update has those of one epoch in another order, too.
  state = B * 2 * more * (11 * LAYERS * K + 5 * 4)
  assert 1.5 <= (temporaries(more + 2) - temporaries(2)) / state < 1.6


REFUSED = {
  "no experts": (dict(learn__epochs=2), "the model has no experts"),
  "one update": (
    dict(model__experts__number=4, model__experts__per_token=2,
         model__experts__width=8), "single update per rollout")}


@pytest.mark.parametrize("case", REFUSED)
def test_a_replay_that_cannot_be_is_refused(case, sudoku_dir):
  changes, message = REFUSED[case]
  with pytest.raises(strict.ConfigError, match=message) as error:
    runs.tiny(sudoku_dir, learn__replay_routing=True, **changes)
  assert (error.value.field, error.value.value) == (
    "learn.replay_routing", True)
  assert len(str(error.value).splitlines()) == 1
