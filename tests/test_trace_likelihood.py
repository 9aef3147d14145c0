"""Log-probs of traces against the distributions that the sampler drew from."""

import dataclasses
import functools

import block_reference
import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
import runs
from collectives import collectives
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from updates import FAST
from updates import LEARN

from dlrl import config
from dlrl import rollout
from dlrl import scoring
from dlrl import strict
from dlrl.diffusion import model_input
from dlrl.diffusion import token_logps
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib
from dlrl.sampling import denoise

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, EOS, SIZE, T = 2, 7, 4, 8
ENDS = (9, 11, 13, 15)  # the ends of texts of models with blocks
FULL = networks.TINY
BLOCKS = dataclasses.replace(
  FULL, heads=4, kv_heads=2, qk_norm=True, block_length=SIZE)
LENGTHS = np.array([5, 1, 8, 3, 6], np.int32)
B = len(LENGTHS)
PROMPTS = np.random.default_rng(0).integers(
  8, FULL.vocab_size, (B, 8)).astype(np.int32)
SAMPLER = config.SamplerConfig(
  gen_length=T, block_length=SIZE, steps=T, temperature=0.7)
TRUNCATED = {"top_k": 6, "top_p": 0.8, "temperature": 1.3}


@functools.cache
def decoded(cfg, sampler):
  model, params = networks.decodable(cfg, MASK)
  return jax.device_get(jax.jit(functools.partial(
    denoise.decode, model, sampler=sampler, eos_id=EOS, ends=ENDS,
    candidates=sampler.top_k), compiler_options=FAST)(
      params, PROMPTS, LENGTHS, jax.random.split(jax.random.key(3), B)))


def batch_of(state, drawn):
  return scoring.Batch(
    prompt=jnp.asarray(PROMPTS), prompt_length=jnp.asarray(LENGTHS),
    completion=jnp.asarray(state.completion),
    maskable=jnp.asarray(state.trace >= 0),
    keys=jax.random.split(jax.random.key(0), B),
    trace=jnp.asarray(state.trace), drawn=drawn)


def drawn_by(state, sampler, never=(MASK,)):
  return token_logps.Drawn(
    sampler.temperature, never,
    jnp.asarray(state.among) if sampler.top_k else None)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=FAST)
def scored(cfg, learn, params, batch):
  model = networks.decodable(cfg, MASK)[0]
  return jnp.sum(scoring.batch_logps(model, learn, params, batch)[0], 1)


def process(cfg):
  return dataclasses.replace(
    LEARN, forward_process="block_trace" if cfg.block_length else "trace",
    n_mc=SIZE if cfg.block_length else T, micro_batch=B, score_norm="none")


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def logits_of(cfg, params, canvas):
  """Logits [b, t, v] of completions, each seen with its prompt."""
  model = networks.decodable(cfg, MASK)[0]
  if not cfg.block_length:
    row = model_input.assemble(canvas, PROMPTS, LENGTHS)
    return model.hidden(params, *row)[:, :T] @ model.unembed(params)
  rows = np.concatenate([PROMPTS, np.full((B, T), MASK)], 1)
  at = LENGTHS[:, None] + np.arange(T)
  rows = jnp.asarray(rows).at[np.arange(B)[:, None], at].set(canvas)
  logits = model.noisy_logits(params, rows, rows, LENGTHS + T)
  return jnp.take_along_axis(logits, at[..., None], 1)


def replayed(cfg, params, state, sampler, never=(MASK,), of=None):
  """Log-probs [b, t] of the tokens, step by step, in float64.

  `of` are the parameters whose top-k and top-p count; None: `params`.
  """
  found = np.zeros((B, T))
  for step in range(state.trace.max() + 1):
    now = state.trace == step
    canvas = np.where(
      (state.trace >= step) | (state.trace < 0), MASK, state.completion)
    logits, chosen = (np.array(logits_of(cfg, p, canvas), np.float64)
                      for p in (params, params if of is None else of))
    for x in (logits, chosen):
      x[..., list(never)] = -np.inf
    for row, column in np.argwhere(now):
      kept = block_reference.distribution(
        chosen[row, [column]], sampler, sampler.temperature)[0] > 0
      x = np.where(kept, logits[row, column] / sampler.temperature, -np.inf)
      x -= x.max()
      found[row, column] = (
        x - np.log(np.exp(x).sum()))[state.completion[row, column]]
  return found


@pytest.mark.slow
@pytest.mark.parametrize("options", [
  {}, {"top_k": 5}, TRUNCATED, TRUNCATED | {"threshold": 0.4}], ids=str)
def test_blocks_have_the_probabilities_that_the_sampler_drew_with(options):
  sampler = dataclasses.replace(SAMPLER, **options)
  state, params = decoded(BLOCKS, sampler), networks.decodable(BLOCKS, MASK)[1]
  got = scored(BLOCKS, process(BLOCKS), params, batch_of(
    state, drawn_by(state, sampler)))
  there = state.trace >= 0
  assert not there.all()  # some texts end before the last block
  np.testing.assert_allclose(
    got, replayed(BLOCKS, params, state, sampler), atol=2e-5)
  # The sampler's own number, and of whole completions.
  np.testing.assert_allclose(np.where(there, got, 0).sum(1), np.log(
    np.where(there, state.confidence, 1)).sum(1), rtol=1e-5, atol=1e-5)
  model_s = scored(BLOCKS, process(BLOCKS), params, batch_of(
    state, token_logps.MODEL))
  assert abs(np.asarray(got - model_s)).max() > 0.1


@pytest.mark.parametrize("options", [
  {}, TRUNCATED, TRUNCATED | {"fill_after": 0.5},
  {"temperature": 1.0, "eos": "suppress"}], ids=str)
def test_full_attention_has_the_probabilities_that_it_drew_with(options):
  sampler = dataclasses.replace(SAMPLER, **options)
  state, params = decoded(FULL, sampler), networks.decodable(FULL, MASK)[1]
  never = (MASK, EOS) if "eos" in options else (MASK,)
  got = scored(FULL, process(FULL), params, batch_of(
    state, drawn_by(state, sampler, never)))
  np.testing.assert_allclose(
    got, replayed(FULL, params, state, sampler, never), atol=2e-5)


def test_the_tokens_drawn_from_stay_those_of_the_rollout():
  sampler = dataclasses.replace(SAMPLER, **TRUNCATED)
  state, params = decoded(BLOCKS, sampler), networks.decodable(BLOCKS, MASK)[1]
  rng = np.random.default_rng(1)
  other = jax.tree.map(
    lambda x: x * (1 + 0.2 * rng.normal(size=x.shape).astype(x.dtype)), params)
  got = np.asarray(scored(BLOCKS, process(BLOCKS), other, batch_of(
    state, drawn_by(state, sampler))))
  want = replayed(BLOCKS, other, state, sampler, of=params)
  np.testing.assert_allclose(got, want, atol=2e-5)
  assert np.isfinite(want).all()
  # Some tokens are none that the other policy's sampler would have drawn.
  with np.errstate(divide="ignore"):
    moved = replayed(BLOCKS, other, state, sampler)
  assert (moved == -np.inf).any()


# All completions of two tokens, the left one first: their probabilities sum to
# 1, and the mean of the gradient of their logarithms is 0.
SMALL = dataclasses.replace(
  BLOCKS, layers=1, vocab_size=9, block_length=2, width=8, mlp_width=8)


@functools.cache
def enumerated():
  """(batch, probabilities) of all completions that can be drawn."""
  sampler = dataclasses.replace(SAMPLER, **TRUNCATED | {
    "top_k": 4, "top_p": 0.95, "temperature": 2.0})
  model, params = networks.decodable(SMALL, MASK)
  prompt = np.array([3, 4], np.int32)

  def distribution(canvas, column):
    ids = np.concatenate([prompt, canvas])[None]
    logits = np.array(block_reference.noisy_logits(model)(
      params, ids, ids, np.array([4])))
    logits[..., MASK] = -np.inf
    return block_reference.distribution(
      logits[0, [2 + column]], sampler, sampler.temperature)[0]

  found = []
  first = distribution([MASK, MASK], 0)
  for a in np.flatnonzero(first):
    second = distribution([a, MASK], 1)
    found += [((a, b), first[a] * second[b], [np.flatnonzero(first),
                                               np.flatnonzero(second)])
              for b in np.flatnonzero(second)]
  completion, p, among = zip(*found, strict=True)
  n = len(p)
  among = [[np.pad(x, (0, SMALL.vocab_size - len(x)), constant_values=-1)
            for x in row] for row in among]
  return scoring.Batch(
    prompt=jnp.tile(prompt, (n, 1)), prompt_length=jnp.full(n, 2),
    completion=jnp.array(completion, jnp.int32),
    maskable=jnp.ones((n, 2), bool), keys=jax.random.split(
      jax.random.key(0), n), trace=jnp.tile(jnp.arange(2), (n, 1)),
    drawn=token_logps.Drawn(
      sampler.temperature, (MASK,), jnp.array(among, jnp.int32))), np.array(p)


@pytest.mark.slow
def test_the_mean_of_the_score_is_zero_under_the_sampler():
  batch, p = enumerated()
  assert len(p) > 6
  np.testing.assert_allclose(p.sum(), 1, rtol=1e-9)
  model, params = networks.decodable(SMALL, MASK)
  learn = dataclasses.replace(
    LEARN, forward_process="block_trace", n_mc=2, micro_batch=len(p))

  @functools.partial(jax.jit, compiler_options=FAST)
  def slope(params, batch, weight):
    def total(params):
      logps = jnp.sum(
        scoring.batch_logps(model, learn, params, batch)[0], (1, 2))
      return logps @ weight, logps

    return jax.grad(total, has_aux=True)(params)

  def of(batch, weight):
    grads, logps = slope(params, batch, jnp.asarray(weight, jnp.float32))
    return optax.global_norm(grads), logps

  largest, logps = of(batch, np.where(p == p.max(), p, 0))
  np.testing.assert_allclose(np.exp(logps), p, rtol=1e-4)
  assert of(batch, p)[0] < 1e-5 * largest
  # Among all tokens it is another distribution.
  among = jnp.broadcast_to(
    jnp.arange(SMALL.vocab_size), batch.drawn.among.shape)
  whole = dataclasses.replace(batch, drawn=dataclasses.replace(
    batch.drawn, among=among))
  assert of(whole, p)[0] > 0.05 * largest


@pytest.mark.parametrize("shards", [1, 2])
def test_a_truncated_softmax_and_its_gradients_are_exact(shards):
  b, t, d, v, temperature, never = 4, 10, 6, 17, 0.6, (3, 5)
  rng = np.random.default_rng(0)
  hidden, unembed = rng.normal(size=(b, t, d)), rng.normal(size=(d, v))
  targets, mask = rng.integers(0, v, (b, t)), rng.random((b, t)) < 0.7
  among = np.argsort(rng.random((b, t, v)))[..., :5]
  among[0, :, 2:] = -1
  weight = rng.normal(size=(2, b, t))

  logits = hidden @ unembed / temperature
  ids = np.arange(v)
  hit = ids == targets[..., None]
  for kept, drawn in (
      (~np.isin(ids, never) | hit, token_logps.Drawn(temperature, never)),
      ((among[..., None, :] == ids[:, None]).any(-1) & ~np.isin(ids, never)
       | hit, token_logps.Drawn(
         temperature, never, jnp.asarray(among, jnp.int32)))):
    x = np.where(kept, logits, -np.inf)
    logp = x - np.log(np.exp(x).sum(-1, keepdims=True))
    p = np.exp(logp)
    logp = np.where(kept, logp, 0)
    entropy = -(p * logp).sum(-1)
    w = (weight * mask)[..., None]
    slope = (w[0] * (hit - p) - w[1] * p * (logp + entropy[..., None])
             ) / temperature

    def total(hidden, unembed, drawn=drawn):
      out = token_logps.token_logps(
        hidden, unembed, jnp.asarray(targets), jnp.asarray(mask), chunk=3,
        shards=shards, drawn=drawn)
      return jnp.sum(weight[0] * out.logps + weight[1] * out.entropy), out

    (_, out), grads = jax.jit(jax.value_and_grad(
      total, (0, 1), has_aux=True))(
        *(jnp.asarray(x, jnp.float32) for x in (hidden, unembed)))
    np.testing.assert_allclose(
      out.logps, np.where(mask, (logp * hit).sum(-1), 0), atol=1e-5)
    np.testing.assert_allclose(
      out.entropy, np.where(mask, entropy, 0), atol=1e-5)
    np.testing.assert_allclose(grads[0], slope @ unembed.T, atol=2e-5)
    np.testing.assert_allclose(
      grads[1], np.einsum("btd,btv->dv", hidden, slope), atol=5e-5)


def test_nothing_is_drawn_without_noise():
  x = jnp.zeros((1, 1, 1))
  with pytest.raises(ValueError, match="the temperature is 0\\.0; with"):
    token_logps.token_logps(
      x, x[0], jnp.zeros((1, 1), "int32"), jnp.ones((1, 1), bool), chunk=1,
      drawn=token_logps.Drawn(0.0))


OF_BLOCKS = {
  "model__block_length": 4, "rollout__sampler__block_length": 4,
  "eval__sampler__block_length": 4, "learn__forward_process": "block_trace",
  "learn__n_mc": 4, "learn__loss": "trace_rl", "learn__score_norm": "none"}
DRAWN = {"rollout__sampler__temperature": 0.8, "rollout__sampler__top_k": 5,
         "rollout__sampler__top_p": 0.9}


@pytest.mark.parametrize(("changes", "temperature", "kept"), [
  ({}, 1.0, None), (DRAWN, 0.8, 5),
  (DRAWN | {"rollout__sampler__top_p": 1.0, "rollout__sampler__top_k": 0}, 0.8,
   None),
  (DRAWN | {"learn__forward_process": "block_balanced"}, 1.0, None)], ids=str)
def test_a_rollout_notes_what_traces_were_drawn_from(
    sudoku_dir, changes, temperature, kept):
  setup = setup_lib.make(runs.tiny(sudoku_dir, **OF_BLOCKS | changes))
  drawn, n = rollout._drawn(setup)
  assert drawn.temperature == temperature
  assert n == (kept or 0)
  never = (setup.model.mask_id,) if temperature != 1 else ()
  assert (drawn.never, drawn.among) == (never, None)


@pytest.mark.parametrize(("changes", "message"), [
  ({"rollout__sampler__top_k": 0}, "rollout.sampler.top_k = 0: must be "
   "positive with rollout.sampler.top_p = 0.9 and 'block_trace'"),
  ({"rollout__sampler__temperature": 0.0}, "rollout.sampler.temperature = 0.0: "
   "must be positive")])
def test_what_cannot_be_scored_exactly_is_one_line(
    sudoku_dir, changes, message):
  with pytest.raises(strict.ConfigError) as error:
    runs.tiny(sudoku_dir, **OF_BLOCKS | DRAWN | changes)
  assert [line for line in str(error.value).splitlines() if message in line]


def test_guidance_has_no_trace(sudoku_dir):
  with pytest.raises(strict.ConfigError, match=(
      r"rollout.sampler.cfg_scale = 1.5: must be 0 with 'trace'")):
    runs.tiny(sudoku_dir, learn__forward_process="trace", learn__n_mc=8,
              rollout__sampler__cfg_scale=1.5)


def test_memory_is_that_of_a_chunk_also_with_many_tokens_drawn_from():
  b, t, d, v, chunk, k = 2, 16, 8, 32768, 4, 40

  def temporaries(drawn, *among):
    def total(hidden, unembed, targets, mask, *among):
      out = token_logps.token_logps(
        hidden, unembed, targets, mask, chunk=chunk,
        drawn=dataclasses.replace(drawn, among=among[0] if among else None))
      return jnp.sum(out.logps + out.entropy)

    args = [jax.ShapeDtypeStruct(*x) for x in (
      ((b, t, d), "float32"), ((d, v), "float32"), ((b, t), "int32"),
      ((b, t), "bool"), *among)]
    return jax.jit(jax.value_and_grad(total, (0, 1)), compiler_options=FAST
                   ).lower(*args).compile().memory_analysis().temp_size_in_bytes

  of_model = temporaries(token_logps.MODEL)
  drawn = temporaries(token_logps.Drawn(0.7, (3,)), ((b, t, k), "int32"))
  logits = 4 * chunk * v
  assert drawn < of_model + 2 * logits < chunk * v * k


def test_devices_that_share_a_vocabulary_exchange_no_logits():
  args, among = (((8, 32, 16), "float32"), ((16, 4096), "float32"),
                 ((8, 32), "int32"), ((8, 32), "bool")), ((8, 32, 5), "int32")
  mesh = mesh_lib.make(config.MeshConfig(2, 2, 2))
  rows, columns = P(("data", "fsdp")), P(None, "tensor")
  specs = rows, columns, rows, rows, rows

  def total(hidden, unembed, targets, mask, among):
    return jnp.sum(token_logps.token_logps(
      hidden, unembed, targets, mask, chunk=16, shards=4,
      drawn=token_logps.Drawn(0.7, (3,), among)).logps)

  with jax.set_mesh(mesh):
    text = jax.jit(jax.value_and_grad(total, (0, 1))).lower(*(
      jax.ShapeDtypeStruct(*x, sharding=NamedSharding(mesh, spec))
      for x, spec in zip((*args, among), specs, strict=True))
    ).compile().as_text()
  one_position = 4096 // 2  # the logits of it that a device has
  assert not [x for x in collectives(text) if x[2] >= one_position
              and x[0] != "ENTRY"]
