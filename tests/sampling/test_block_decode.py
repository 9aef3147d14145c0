"""Block-wise decoding against a loop for one row without any cache."""

import dataclasses
import functools
import re

import block_reference
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl.costs import flops
from dlrl.models import transformer
from dlrl.runtime import mesh as mesh_lib
from dlrl.sampling import block_decode
from dlrl.sampling import block_steps
from dlrl.sampling import denoise

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, B, T = 2, 4, 10
CFG = dataclasses.replace(
  networks.TINY, heads=4, kv_heads=2, qk_norm=True, block_length=B)
LENGTHS = np.array([5, 1, 8, 3, 6])
PROMPTS = np.random.default_rng(0).integers(
  3, CFG.vocab_size, (len(LENGTHS), 9)).astype(np.int32)
ENDS = (7, 11)
# Of 12 tokens per 3 blocks, of which only 10 exist; 4 steps a block.
PLAIN = {"gen_length": 12, "block_length": B, "steps": 12, "temperature": 1.0}
DYNAMIC = PLAIN | {"threshold": 0.35}


@functools.cache
def made():
  return networks.decodable(CFG, MASK)


def keys(n=5):
  return jax.random.split(jax.random.key(3), n)


@functools.cache
def program(sampler, ends=(), group=1):
  return jax.jit(functools.partial(
    block_decode.decode, made()[0], sampler=sampler, eos_ids=ends,
    group=group))


def decode(ends=(), rows=slice(None), **sampler):
  """The state for `rows` of PROMPTS, T tokens each."""
  got = program(config.SamplerConfig(**sampler), ends)(
    made()[1], jnp.asarray(PROMPTS[rows]), jnp.asarray(LENGTHS[rows]),
    keys()[rows], lengths=jnp.asarray(LENGTHS[rows] + T))
  return jax.tree.map(lambda x: x[:, :T] if x.ndim else x, got)


@functools.cache
def by_hand(ends, names):
  model, params = made()
  rows = [block_reference.decode(
    model, params, prompt[:n], key, config.SamplerConfig(**dict(names)), n + T,
    ends, PROMPTS.shape[1] + T)
    for prompt, n, key in zip(PROMPTS, LENGTHS, keys(), strict=True)]
  return [np.stack(x) for x in zip(*rows, strict=True)]


def compare(got, ends=(), **sampler):
  tokens, trace, confidence = by_hand(
    ends, tuple(k for k in sampler.items() if k[0] != "slots"))
  np.testing.assert_array_equal(got.completion, tokens)
  np.testing.assert_array_equal(got.trace, trace)
  np.testing.assert_allclose(got.confidence, confidence, atol=1e-5)
  return trace


@pytest.mark.slow
@pytest.mark.parametrize("options", [
  {"steps": 9, "temperature": 0.0},
  {"threshold": 0.2, "temperature": 0.0, "steps": 6},
  {"remasking": "left_to_right", "steps": 9, "slots": 2},
  {"remasking": "entropy"}, {"remasking": "entropy", "threshold": 2.0},
  {"temperature": 0.7, "top_k": 6, "top_p": 0.8, "threshold": 0.5},
  {"temperature": 0.0, "top_k": 4, "top_p": 0.9, "threshold": 0.4},
  {"remasking": "random", "slots": 4}], ids=str)
def test_every_rule_is_that_of_the_slow_loop(options):
  settings = PLAIN | options
  trace = compare(decode(**settings), **settings)
  if "threshold" in options:  # or it would not show
    assert trace.max(1).min() < T - 1


def test_the_last_row_that_ends_is_the_last_step():
  got = decode(**PLAIN, slots=0)
  assert got.forwards == got.taken.max() == T


@pytest.mark.parametrize("slots", [0, 1, 2, 3])
def test_rows_do_not_depend_on_slots_and_end_at_any_end(slots):
  got = decode(ENDS, **DYNAMIC, slots=slots)
  trace = compare(got, ENDS, **DYNAMIC)
  ended = (trace < 0).any(1)
  assert 0 < ended.sum() < len(ended)  # some rows end before, and some do not
  # Tokens after an end in its block were sampled, and some of them are none.
  found = np.isin(np.asarray(got.completion), ENDS)
  after = (np.cumsum(found, 1) - found > 0) & (trace >= 0)
  assert (after & ~found).any()
  assert got.forwards == block_reference.passes(
    got.taken.tolist(), slots or len(LENGTHS))


def test_a_row_does_not_depend_on_its_neighbours():
  want = decode(ENDS, **DYNAMIC)
  for i in range(len(LENGTHS)):
    got = decode(ENDS, slice(i, i + 1), **DYNAMIC)
    np.testing.assert_array_equal(got.completion[0], want.completion[i])
    np.testing.assert_array_equal(got.trace[0], want.trace[i])


@pytest.mark.slow
def test_the_steps_of_a_stream_are_those_of_the_program():
  model, params = made()
  sampler = config.SamplerConfig(**DYNAMIC)
  states = list(block_decode.stream(
    model, params, PROMPTS[:2], LENGTHS[:2], keys()[:2], sampler=sampler,
    eos_ids=ENDS))
  want = program(sampler, ENDS)(
    params, PROMPTS[:2], LENGTHS[:2], keys()[:2])
  jax.tree.map(np.testing.assert_array_equal, states[-1]._replace(
    confidence=0), want._replace(confidence=0))
  for n, state in enumerate(states[:-1], 1):
    assert state.forwards == n
    there = (want.trace >= 0) & (want.trace < n)
    np.testing.assert_array_equal(
      state.completion, np.where(there, want.completion, MASK))


def test_cached_keys_are_those_of_the_clean_stream():
  model, params = made()

  @jax.jit
  def run(params):
    steps, state = block_steps.begin(
      model, params, jnp.asarray(PROMPTS), jnp.asarray(LENGTHS), keys(),
      config.SamplerConfig(**DYNAMIC), jnp.asarray(LENGTHS + T), (), 1)
    state = block_decode._all_steps(steps, state)
    # The last block is decoded, and nothing needs its keys.
    ids = jnp.where(state.canvas[0] == MASK, 3, state.canvas[0])
    return state, model.clean_stream(params, ids, LENGTHS + T)

  state, want = run(params)
  for got, exact in zip(state.cache, want, strict=True):
    for row, start in zip(np.asarray(state.row[0]), state.start[0],
                          strict=True):
      assert start >= LENGTHS[row] + T - B
      np.testing.assert_allclose(
        got[:, row, :start], exact[:, row, :start], atol=1e-5)


@pytest.mark.slow
def test_prompts_are_computed_once_per_group():
  _, params = made()
  prompt, length = (np.repeat(x[:2], 3, 0) for x in (PROMPTS, LENGTHS))
  sampler = config.SamplerConfig(**DYNAMIC, slots=2)
  args = params, prompt, length, keys(6)
  grouped, alone = (program(sampler, ENDS, group) for group in (3, 1))
  for field in ("completion", "trace"):
    np.testing.assert_array_equal(
      *(getattr(run(*args), field) for run in (grouped, alone)))
  cache = [f"f32[2,{n},9,2,8]" for n in (2, 6)]
  text = str(grouped.trace(*args).jaxpr)
  assert cache[0] in text and cache[1] not in text
  assert cache[1] in str(alone.trace(*args).jaxpr)


@pytest.mark.slow
def test_rows_that_are_split_over_devices_are_the_same():
  model, params = made()
  prompt, length = (np.tile(np.concatenate([x, x[:3]]), (2,) + (1,) * (
    x.ndim - 1)) for x in (PROMPTS, LENGTHS))
  sampler = config.SamplerConfig(**DYNAMIC, slots=8)
  args = params, prompt, length, keys(16)
  want = program(sampler, ENDS)(*args)
  mesh = mesh_lib.make(config.MeshConfig(8, 1, 1))
  with jax.set_mesh(mesh):
    split, whole = mesh_lib.batch_sharding(mesh), mesh_lib.replicated(mesh)
    args = jax.device_put(args, (whole, split, split, split))
    run = jax.jit(functools.partial(
      block_decode.decode, model, sampler=sampler, eos_ids=ENDS))
    got = run(*args)
    text = run.lower(*args).compile().as_text()
  for field in ("completion", "trace"):
    np.testing.assert_array_equal(getattr(got, field), getattr(want, field))
  assert len(got.completion.addressable_shards) == 8
  # One of two rows at a time on each device; only flags are exchanged.
  assert got.completion.addressable_shards[0].data.shape[0] == 2
  assert got.forwards == max(
    block_reference.passes(taken, 1)
    for taken in got.taken.reshape(8, 2).tolist())
  moved = [line for line in text.splitlines() if any(
    f" {op}(" in line or f" {op}-start(" in line for op in (
      "all-gather", "all-to-all", "collective-permute", "all-reduce"))]
  assert moved
  assert {kind for line in moved for kind in re.findall(
    r"(\w+)\[", re.split(" all-| collective-", line)[0])} == {"pred"}


def test_the_cache_is_there_once():
  cfg = dataclasses.replace(CFG, layers=24)  # one layer is little of the cache
  model = transformer.build(cfg, MASK)
  rows, slots, group, width = 32, 16, 8, 256
  sampler = config.SamplerConfig(
    gen_length=width, block_length=B, steps=width, threshold=0.9, slots=slots)
  compiled = jax.jit(functools.partial(
    block_decode.decode, model, sampler=sampler, group=group)).lower(
    networks.shapes_of(model), jax.ShapeDtypeStruct((rows, width), "int32"),
    jax.ShapeDtypeStruct((rows,), "int32"),
    jax.eval_shape(lambda: keys(rows))).compile()
  column = 2 * 4 * cfg.layers * cfg.kv_heads * cfg.head_dim
  cache, prompts = slots * 2 * width * column, rows // group * width * column
  # Prompts are copied once before the loop.
  assert compiled.memory_analysis().temp_size_in_bytes < (
    1.4 * cache + 2 * prompts)


def test_one_program_serves_all_prompts():
  run = program(config.SamplerConfig(**DYNAMIC, slots=2), ENDS)
  for seed in range(3):
    ids = np.random.default_rng(seed).integers(3, 24, PROMPTS.shape)
    run(made()[1], jnp.asarray(ids, jnp.int32), jnp.asarray(LENGTHS[::-1]),
        keys(), lengths=jnp.asarray(LENGTHS[::-1] + T - seed))
  assert run._cache_size() == 1


@pytest.mark.slow
def test_tokens_are_drawn_from_the_model():
  """Exact probabilities of a block of 2 in which the surer token is first."""
  cfg = dataclasses.replace(networks.TINY, vocab_size=8, block_length=2)
  model, params = networks.decodable(cfg, MASK)
  sampler = config.SamplerConfig(
    gen_length=2, block_length=2, steps=2, temperature=1.5, top_k=5)
  prompt, v, n = [3, 4], cfg.vocab_size, 2**12

  def probs(*block):
    ids = np.array([[*prompt, *block]])
    logits = np.array(model.noisy_logits(params, ids, ids))[0, 2:]
    logits[:, MASK] = -np.inf
    return block_reference.distribution(logits, sampler, 1.5)

  first = probs(MASK, MASK)
  left = np.array([probs(a, MASK)[1] for a in range(v)])
  right = np.array([probs(MASK, b)[0] for b in range(v)])
  both = first[0][:, None] * first[1][None]
  surer = first[0][:, None] >= first[1][None]
  want = ((both * surer).sum(1)[:, None] * left
          + (both * ~surer).sum(0)[None] * right.T)
  got = jax.jit(functools.partial(
    block_decode.decode, model, sampler=sampler))(
    params, jnp.tile(jnp.array([prompt]), (n, 1)), jnp.full(n, 2), keys(n))
  share = np.bincount(
    np.asarray(got.completion) @ [v, 1], minlength=v * v) / n
  error = np.sqrt(want * (1 - want) / n).ravel() + 1e-9
  assert (abs(share - want.ravel()) <= 5 * error).all()
  assert (error > 1e-3).sum() > 10
  assert 0.1 < (np.asarray(got.trace)[:, 0] == 0).mean() < 0.9


@pytest.mark.parametrize("options", [
  {"slots": 2}, {"slots": 2, "threshold": 0.1}, {"steps": 6}, {"steps": 9}],
  ids=str)
def test_no_batch_takes_more_steps_than_its_flops_are_counted_for(options):
  model, params = made()
  settings = PLAIN | {"temperature": 0.0} | options
  sampler = config.SamplerConfig(**settings)
  run = program(sampler)
  args = params, jnp.asarray(PROMPTS), jnp.asarray(LENGTHS), keys()
  trips = block_decode.most_trips(sampler, len(LENGTHS))
  assert run(*args).forwards <= trips[0] * trips[1]
  steps, state = jax.eval_shape(lambda *args: block_steps.begin(
    model, *args, sampler, None, (), 1), *args)
  once = flops.flops(
    lambda steps, state: steps.step(state, store=True), steps, state)
  counted = flops.flops(run, *args, while_trips=trips)
  assert counted >= trips[0] * trips[1] * once
  assert counted <= 1.5 * trips[0] * trips[1] * once  # and the prompts


def test_rows_without_a_completion_end_at_once():
  got = program(config.SamplerConfig(**DYNAMIC, slots=1), ENDS)(
    made()[1], jnp.asarray(PROMPTS), jnp.asarray(LENGTHS), keys(),
    lengths=jnp.asarray(LENGTHS + np.array([T, 0, T, 0, 1])))
  want = decode(ENDS, **DYNAMIC)
  for i in (0, 2):
    np.testing.assert_array_equal(got.completion[i, :T], want.completion[i])
  assert (np.asarray(got.trace)[[1, 3]] == -1).all()
  assert (np.asarray(got.trace)[4] >= 0).sum() == 1


def test_a_canvas_is_refused():
  model, params = made()
  with pytest.raises(ValueError, match="starts from masks"):
    denoise.decode(
      model, params, PROMPTS, LENGTHS, keys(), canvas=PROMPTS,
      sampler=config.SamplerConfig(**PLAIN))
