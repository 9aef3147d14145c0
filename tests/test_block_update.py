"""The update of block-diffusion models against the joint forward pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import tiny_objectives
from updates import FAST
from updates import LEARN
from updates import assert_same
from updates import first_state
from updates import make_batch
from updates import recorder

from dlrl import config
from dlrl import losses
from dlrl import scoring
from dlrl import strict
from dlrl import update
from dlrl.costs.flops import flops
from dlrl.diffusion import blocks
from dlrl.diffusion import montecarlo
from dlrl.models import layers
from dlrl.models import lora
from dlrl.models import transformer
from dlrl.runtime import mesh as mesh_lib

MASK, SIZE, GROUP, B = 2, 2, 2, 8
CFG = dataclasses.replace(networks.TINY, block_length=SIZE)


@functools.cache
def tiny():
  model = transformer.build(CFG, MASK)
  return model, networks.random_params(model)


@functools.cache
def batch():
  """Groups of two completions; texts end anywhere in the canvas."""
  made = make_batch()
  first = np.arange(B) // GROUP * GROUP
  t = made.completion.shape[1]
  written = np.arange(t)[None] < np.array([5, 4, 3, 5, 1, 2, 5, 4])[:, None]
  counted = written & (np.arange(t)[None] < np.array(
    [5, 3, 3, 4, 1, 1, 5, 2])[:, None])
  return dataclasses.replace(
    made, prompt=made.prompt[first], prompt_length=made.prompt_length[first],
    maskable=jnp.asarray(written), counted=jnp.asarray(counted),
    trace=jnp.asarray(
      np.random.default_rng(5).permutation(t)[None] + np.zeros((B, 1), int),
      jnp.int32))


def joint_logps(params, rows, draw, exists):
  """Log-probs [b, t] of masked tokens by one pass over [noisy | clean]."""
  model = tiny()[0]
  t = rows.completion.shape[1]

  def row(prompt, n, canvas):
    whole = jnp.concatenate([prompt, jnp.zeros(t, prompt.dtype)])
    return jax.lax.dynamic_update_slice(whole, canvas, (n,))

  clean, noisy = (jax.vmap(row)(rows.prompt, rows.prompt_length, x) for x in (
    rows.completion, jnp.where(draw.mask, MASK, rows.completion)))
  lengths = rows.prompt_length + jnp.sum(exists, -1)
  logits = model.noisy_logits(params, noisy, clean, lengths)
  logp = jax.nn.log_softmax(logits)
  at = rows.prompt_length[:, None] + jnp.arange(t)[None]
  found = jnp.take_along_axis(jnp.take_along_axis(
    logp, at[..., None], 1), rows.completion[..., None], -1)[..., 0]
  return jnp.where(draw.weight > 0, found, 0.0)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def stacked(learn, params, old, ref):
  """((loss, metrics), gradient) of all draws at once, by joint passes."""
  rows, norm = batch(), 5 if learn.score_norm == "token" else 1
  of_trace = learn.forward_process in scoring.OF_TRACE
  exists = rows.maskable if of_trace else rows.counted

  def score(params, j):
    process = scoring.PROCESSES[learn.forward_process]
    if learn.forward_process.startswith("block_"):
      process = functools.partial(
        process, offset=rows.prompt_length % SIZE, block_length=SIZE)
    drawn = process(rows.trace if of_trace else rows.keys, exists, j,
                    learn.n_mc, **learn.process_args)
    weight = jnp.where(rows.counted, drawn.weight, 0.0) / norm
    logps, *others = (
      p if p is None else joint_logps(
        p, rows, drawn._replace(weight=weight), exists)
      for p in (params, old, ref))
    return losses.Scored(
      logps, *others, drawn.mask & rows.counted, weight), {}

  return montecarlo.stacked_value_and_grad(
    losses.OBJECTIVES[learn.loss](**learn.loss_args), score,
    losses.Responses(rows.advantage, rows.counted, jnp.full(
      B, rows.counted.sum() / B)), params, learn.n_mc)


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def logps(learn, params):
  return scoring.batch_logps(
    tiny()[0], learn, params, batch=batch(), others=losses.OBJECTIVES[
      learn.loss](**learn.loss_args).others)[0]


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def grads_of(learn, params, rows):
  """(metrics, gradient) of the rows, whose groups share their prompts."""
  return update.batch_grads(tiny()[0], learn, params, rows, group=GROUP)


# Each loss with a process that it may have on blocks.
PROCESSES = {
  "bgpo": "block_exact", "bgpo_clipped": "block_global",
  "ebpo": "block_stratified", "elbo_reinforce": "block_bernoulli",
  "espo": "block_complementary", "gdsd": "block_balanced",
  "vrpo_offline": "block_exact", "vrpo_online": "stratified",
  "trace_rl": "block_trace", "coupled_grpo": "coupled",
  "diffu_grpo": "all_masked", "spg": "block", "stable_drl": "complementary",
  "unigrpo": "random_ratio"}
DRAWS = {"block_exact": blocks.patterns(SIZE), "block_trace": SIZE,
         "complementary": 2, "block_complementary": 2, "all_masked": 1}


def settings(name):
  process = PROCESSES[name]
  knobs = dict(tiny_objectives.METHODS[name][1])
  if "group_size" in knobs:
    knobs["group_size"] = GROUP
  objective = losses.OBJECTIVES[name](**knobs)
  return dataclasses.replace(
    LEARN, loss=name, loss_args=strict.Knobs(knobs), micro_batch=4,
    forward_process=process, n_mc=DRAWS.get(process, 3),
    process_args=strict.Knobs(
      {"block_length": 5} if process == "block" else {}),
    score_norm="token" if objective.takes_norm else "none")


def test_every_objective_is_tried():
  assert PROCESSES.keys() == losses.OBJECTIVES.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", PROCESSES)
def test_an_objective_is_that_of_the_joint_forward(name):
  learn, (model, params) = settings(name), tiny()
  old, ref = (networks.random_params(model, seed=s) for s in (1, 2))
  rows = dataclasses.replace(
    batch(), old_logps=logps(learn, old), ref_logps=logps(learn, ref))
  metrics, grads = grads_of(learn, params, rows)
  (loss, _), want = stacked(learn, params, old, ref)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=2e-4, atol=1e-5)
  assert_same(grads, want, rtol=2e-4)
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want)) > 1e-3


@pytest.mark.slow
def test_completions_of_a_group_share_their_prompt():
  learn, (model, params) = settings("bgpo"), tiny()
  run = functools.partial(update.batch_grads, model, learn)
  alone = jax.jit(run, compiler_options=FAST)(params, batch())
  assert_same(grads_of(learn, params, batch())[1], alone[1])
  together = jax.jit(functools.partial(
    scoring.batch_logps, model, learn, group=GROUP),
    compiler_options=FAST)(params, batch())
  np.testing.assert_allclose(
    together[1], logps(learn, params), rtol=1e-5, atol=1e-5)


def wide_batch(b, p, t):
  return scoring.Batch(
    prompt=jnp.zeros((b, p), jnp.int32), prompt_length=jnp.full(b, p),
    completion=jnp.zeros((b, t), jnp.int32), maskable=jnp.ones((b, t), bool),
    keys=jax.random.split(jax.random.key(0), b), advantage=jnp.ones(b))


def test_flops_are_those_of_one_clean_row_and_n_noisy_responses():
  # Long enough that what a block adds at either end hardly counts.
  b, p, t = 4, 96, 64
  model = transformer.build(dataclasses.replace(CFG, block_length=4), MASK)
  params = jax.eval_shape(lambda: networks.random_params(model))
  rows = jax.eval_shape(lambda: wide_batch(b, p, t))

  def spent(n, group):
    learn = dataclasses.replace(
      LEARN, forward_process="block_stratified", n_mc=n, micro_batch=b)
    return flops(functools.partial(
      scoring.batch_logps, model, learn, group=group), params, rows)

  cfg = model.cfg
  inner, keys = (n * cfg.head_dim for n in (cfg.heads, cfg.kv_heads))
  weights = 2 * cfg.layers * (
    2 * cfg.width * (inner + keys) + 3 * cfg.width * cfg.mlp_width)
  head = 2 * cfg.width * cfg.vocab_size
  attended = 4 * cfg.layers * inner
  w = t + 4  # columns of the blocks
  for n, group in ((1, 1), (16, 1), (16, 4)):
    prompts = b // group
    want = weights * (prompts * p + b * w * (1 + n)) + b * n * t * head
    # Queries of a stream see the columns of their rows, and their block.
    want += attended * (
      prompts * p * p + b * w * (p + w) + b * n * w * (p + w + 4))
    assert spent(n, group) <= 1.02 * want
  # The published pass over [noisy | clean] rows, per draw, if each query costs
  # no more columns there than here.
  published = (p + t) * (2 * weights + attended * (2 * (p + t) + 4))
  assert spent(16, 4) < 0.25 * 16 * b * published


@pytest.mark.slow
def test_memory_does_not_depend_on_the_number_of_draws():
  model = transformer.build(dataclasses.replace(
    CFG, block_length=4, width=32, mlp_width=64), MASK)
  rows, params = wide_batch(4, 32, 32), networks.random_params(model)

  def temporaries(n):
    learn = dataclasses.replace(
      LEARN, forward_process="block_stratified", n_mc=n, micro_batch=4)
    return jax.jit(functools.partial(
      update.batch_grads, model, learn, group=4)).lower(
        params, rows).compile(FAST).memory_analysis().temp_size_in_bytes

  assert temporaries(64) <= 1.02 * temporaries(2)


@pytest.mark.slow
def test_adapters_have_the_gradients_of_merged_matrices():
  adapters = config.LoraConfig(rank=2, alpha=3.0)
  model = transformer.build(CFG, MASK, adapters)
  learn, base = settings("bgpo"), tiny()[1]
  rng = np.random.default_rng(1)
  adapter = jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype),
    lora.shapes(base, adapters))

  def merged(adapter):
    return lora.merge(jax.tree.map(jnp.copy, base), adapter, adapters)

  _, grads = jax.jit(functools.partial(
    update.batch_grads, model, learn, group=GROUP),
    compiler_options=FAST)(lora.join(base, adapter), batch())
  whole, pull = jax.vjp(merged, adapter)
  _, of_whole = grads_of(learn, whole, batch())
  assert_same(grads, pull(of_whole)[0], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [(2, 4, 1), (1, 2, 2)])
def test_a_mesh_changes_no_gradient(axes):
  learn = dataclasses.replace(settings("espo"), micro_batch=8)
  model = transformer.build(
    dataclasses.replace(networks.SHARDED, block_length=SIZE), MASK)
  params = networks.random_params(model)
  run = functools.partial(update.batch_grads, model, learn, group=GROUP)
  metrics, want = jax.jit(run, compiler_options=FAST)(params, batch())
  mesh = mesh_lib.make(
    config.MeshConfig(*axes), jax.devices()[:int(np.prod(axes))])
  placed = jax.device_put(params, mesh_lib.param_shardings(
    mesh, layers.SHARDING, params))
  with jax.set_mesh(mesh):
    rows = jax.device_put(batch(), mesh_lib.batch_sharding(mesh))
    found, grads = jax.jit(run, compiler_options=FAST)(placed, rows)
  assert_same(jax.device_get(grads), jax.device_get(want))
  np.testing.assert_allclose(found["loss"], metrics["loss"], rtol=1e-4,
                             atol=1e-6)


@pytest.mark.slow
def test_an_update_takes_the_step_of_its_gradient():
  learn, (model, params) = settings("bgpo"), tiny()
  tx = recorder()
  state, _ = jax.jit(
    update.make(model, learn, tx, GROUP), compiler_options=FAST)(
      first_state(params, tx), batch())
  _, grads = grads_of(learn, params, batch())
  assert_same(state.params, jax.tree.map(jnp.subtract, params, grads))
