"""Block-causal models: two streams against the published joint forward."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import joint_forward
import networks
import numpy as np
import pytest
from jax.extend import core

from dlrl import config
from dlrl import strict
from dlrl.costs.flops import flops
from dlrl.models import layers
from dlrl.models import lora
from dlrl.models import transformer
from dlrl.runtime import mesh as mesh_lib

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, B = 2, 4
CFG = dataclasses.replace(
  networks.TINY, heads=4, kv_heads=2, qk_norm=True, block_length=B)
# Prompts that are and are not multiples of the block length, and rows that end
# inside of a block, at its end, and in the first block.
PROMPTS, LENGTHS = (4, 6, 3, 1), (11, 10, 8, 2)
T = max(LENGTHS)
LIVE = np.arange(T)[None] < np.array(LENGTHS)[:, None]


@functools.cache
def made(**changes):
  model = transformer.build(dataclasses.replace(CFG, **changes), MASK)
  return model, networks.random_params(model)


@functools.cache
def rows(seed=0):
  """(noisy, clean), [4, T] each; prompts and padding have no masks."""
  rng = np.random.default_rng(seed)
  clean = rng.integers(3, CFG.vocab_size, (len(LENGTHS), T))
  response = LIVE & (np.arange(T)[None] >= np.array(PROMPTS)[:, None])
  hidden = response & (rng.random(clean.shape) < 0.6)
  hidden[:, -1] |= response[:, -1]
  return np.where(hidden, MASK, clean), clean


def in_float64(params):
  return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


def joint(params, cfg, noisy, clean):
  """Noisy and clean logits [4, T, v] in float64; 0 at padding."""
  halves = np.zeros((2, *clean.shape, cfg.vocab_size))
  for row, n in enumerate(LENGTHS):
    both = joint_forward.logits(params, cfg, noisy[row, :n], clean[row, :n])
    halves[:, row, :n] = both.reshape(2, n, -1)
  return halves


def assert_live(got, want, atol=1e-4):
  np.testing.assert_allclose(
    np.asarray(got, np.float64)[LIVE], want[LIVE], rtol=0, atol=atol)


@pytest.mark.parametrize("changes", [
  {}, {"block_length": 1}, {"block_length": 8}, {"block_length": 32},
  {"qk_norm": False, "kv_heads": 4}, {"kv_heads": 1, "block_length": 3}])
def test_both_streams_are_the_joint_forward_under_a_dense_mask(changes):
  model, params = made(**changes)
  noisy, clean = rows()
  exact = in_float64(params)
  want_noisy, want_clean = joint(exact, model.cfg, noisy, clean)
  lengths = np.array(LENGTHS)
  assert_live(jax.jit(model.noisy_logits)(params, noisy, clean, lengths),
              want_noisy)
  assert_live(jax.jit(model.logits)(params, clean, lengths), want_clean)


@pytest.mark.parametrize("remat", layers.REMAT)
def test_gradients_are_those_of_the_joint_forward(remat):
  model, params = made(remat=remat)
  noisy, clean = rows()
  weight = np.random.default_rng(1).normal(size=(*clean.shape, CFG.vocab_size))
  weight *= LIVE[..., None]

  @jax.jit
  def total(params):
    logits = model.noisy_logits(params, noisy, clean, np.array(LENGTHS))
    return jnp.sum(logits * jnp.asarray(weight, jnp.float32))

  grads = jax.grad(total)(params)
  exact = in_float64(params)
  leaves, structure = jax.tree.flatten(exact)
  rng, h = np.random.default_rng(2), 1e-5
  for i, (leaf, grad) in enumerate(
      zip(leaves, jax.tree.leaves(grads), strict=True)):
    way = rng.normal(size=leaf.shape)
    ends = [np.sum(weight * joint(jax.tree.unflatten(
      structure, [*leaves[:i], leaf + s * h * way, *leaves[i + 1:]]),
      model.cfg, noisy, clean)[0]) for s in (1, -1)]
    want = (ends[0] - ends[1]) / (2 * h)
    scale = np.linalg.norm(np.asarray(grad, np.float64)) * np.linalg.norm(way)
    assert scale > 1
    np.testing.assert_allclose(
      np.sum(np.asarray(grad, np.float64) * way), want, rtol=0,
      atol=1e-4 * scale)


def test_a_noisy_block_sees_itself_and_earlier_clean_ones_and_no_padding():
  model, params = made()
  noisy, clean = rows()
  run = jax.jit(functools.partial(model.noisy_logits, params))
  lengths = np.array(LENGTHS)
  base = np.asarray(run(noisy, clean, lengths))
  column = np.arange(T)
  for changed in range(T):
    for stream in ("noisy", "clean"):
      both = {"noisy": noisy.copy(), "clean": clean.copy()}
      both[stream][:, changed] = 3 + (both[stream][:, changed] + 1) % 20
      got = np.asarray(run(both["noisy"], both["clean"], lengths))
      moved = np.abs(got - base).max(-1) > 0
      depends = (column // B == changed // B if stream == "noisy"
                 else column // B > changed // B)
      want = LIVE & LIVE[:, [changed]] & depends
      np.testing.assert_array_equal(moved[LIVE], want[LIVE])


def test_padding_has_no_gradient_and_no_effect():
  model, params = made()
  noisy, clean = rows()
  # Each id in padding is used nowhere else.
  spoiled = np.where(LIVE, clean, 1)
  assert not (clean == 1).any()

  def loss(params, noisy, clean):
    logits = model.noisy_logits(params, noisy, clean, np.array(LENGTHS))
    return jnp.sum(jnp.sin(logits) * LIVE[..., None]), logits

  run = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (_, want), _ = run(params, noisy, clean)
  (_, got), grads = run(params, np.where(LIVE, noisy, 1), spoiled)
  np.testing.assert_array_equal(np.asarray(got)[LIVE], np.asarray(want)[LIVE])
  assert np.isfinite(np.asarray(got)).all()
  table = np.asarray(grads["embed"]["embedding"])
  np.testing.assert_array_equal(table[1], 0)
  assert (np.abs(table[np.unique(clean[LIVE])]).max(-1) > 0).all()


def test_the_stream_of_some_blocks_is_that_of_all():
  model, params = made()
  noisy, clean = rows()
  lengths = np.array(LENGTHS)
  kept = jax.jit(model.clean_stream)(params, clean, lengths)
  padded = np.pad(noisy, ((0, 0), (0, -T % B)))
  whole = np.asarray(jax.jit(model.noisy_logits)(
    params, padded, np.pad(clean, ((0, 0), (0, -T % B))), lengths))
  # Rows begin with the block of their first response token, as in training.
  first = np.array(PROMPTS) // B * B
  for width in (B, 2 * B, B - 1):
    columns = np.minimum(first, padded.shape[1] - B)[:, None] + np.arange(width)
    columns = columns % padded.shape[1]
    hidden = jax.jit(model.noisy_stream)(
      params, np.take_along_axis(padded, columns, 1), columns, lengths, kept)
    got = np.asarray(hidden @ model.unembed(params))
    for row in range(len(LENGTHS)):
      there = columns[row] < lengths[row]
      if width == B - 1:  # a part of a block lacks the rest of it
        there &= columns[row, 0] + width >= lengths[row]
      np.testing.assert_allclose(
        got[row, there], whole[row, columns[row, there]], atol=1e-5)


def test_keys_of_whole_prompt_blocks_do_not_depend_on_the_response():
  model, params = made()
  _, clean = rows()
  other = clean.copy()
  other[:, 6:] = 3
  stream = jax.jit(model.clean_stream)
  whole, changed = (
    stream(params, x, np.array(LENGTHS)) for x in (clean, other))
  short = stream(params, clean[:, :B], np.minimum(LENGTHS, B))
  for a, b, c in zip(whole, changed, short, strict=True):
    np.testing.assert_array_equal(a[:, :, :B], b[:, :, :B])
    np.testing.assert_allclose(c, a[:, :, :B], atol=1e-5)
    assert np.abs(a[1:, 0, B:6] - b[1:, 0, B:6]).min() > 0  # their own block


def test_one_block_for_the_whole_row_is_full_attention():
  model, params = made(block_length=T)
  full, _ = made(block_length=0)
  _, clean = rows()
  assert_live(model.logits(params, clean, np.array(LENGTHS)),
              np.asarray(full.logits(params, clean, np.array(LENGTHS))), 1e-5)


def test_the_order_in_memory_does_not_matter_to_the_clean_stream():
  model, params = made()
  _, clean = rows()
  n = T
  ids, positions = clean[:1], np.arange(n)[None]
  order = np.random.default_rng(0).permutation(n)
  run = jax.jit(model.hidden)
  want = run(params, ids, positions, np.array([n]))
  got = run(params, ids[:, order], positions[:, order], np.array([n]))
  np.testing.assert_allclose(got, want[:, order], atol=1e-5)
  some = np.array([[7, 2, 9]])
  np.testing.assert_allclose(
    run(params, ids, positions, np.array([n]), some), want[:, some[0]],
    atol=1e-5)


def test_a_noisy_column_costs_one_token_and_its_keys():
  model, params = made()
  cfg, b, t, w = model.cfg, 2, 64, 16
  kept = jax.eval_shape(
    model.clean_stream, params, np.zeros((b, t), int), np.full(b, t))
  found = flops(
    model.noisy_stream, params, np.zeros((b, w), int),
    np.tile(np.arange(w), (b, 1)), np.full(b, t), kept)
  inner, shared = (n * cfg.head_dim for n in (cfg.heads, cfg.kv_heads))
  products = 2 * cfg.width * (inner + shared) + 3 * cfg.width * cfg.mlp_width
  # All clean columns and the own block, not the whole noisy row.
  assert found == 2 * b * w * cfg.layers * (products + 2 * (t + B) * inner)


def test_nothing_of_the_size_of_the_joint_mask_is_made():
  model, params = made(heads=2, remat="full")
  t = 256
  ids = np.zeros((1, t), int)

  def sizes(jaxpr):
    for eqn in jaxpr.eqns:
      yield from (np.prod(v.aval.shape) for v in eqn.outvars)
      for inner in core.jaxprs_in_params(eqn.params):
        yield from sizes(inner)

  largest = max(sizes(jax.make_jaxpr(jax.grad(lambda p: jnp.sum(
    model.noisy_logits(p, ids, ids))))(params).jaxpr))
  scores = model.cfg.heads * t * t
  assert largest == scores < (2 * t) ** 2


def test_bfloat16_is_near_the_exact_forward():
  model, params = made(compute_dtype="bfloat16")
  noisy, clean = rows()
  exact = in_float64(params)
  want, _ = joint(exact, model.cfg, noisy, clean)
  got = jax.jit(model.noisy_logits)(params, noisy, clean, np.array(LENGTHS))
  assert got.dtype == jnp.float32
  error = np.asarray(got, np.float64)[LIVE] - want[LIVE]
  assert np.linalg.norm(error) < 0.05 * np.linalg.norm(want[LIVE])


def test_adapters_are_merged_matrices():
  adapters = config.LoraConfig(rank=3, alpha=6.0)
  model = transformer.build(CFG, MASK, adapters)
  _, base = made()
  rng = np.random.default_rng(1)
  adapter = jax.tree.map(
    lambda s: jnp.asarray(0.3 * rng.normal(size=s.shape), s.dtype),
    lora.shapes(base, adapters))
  noisy, clean = rows()
  run = jax.jit(model.noisy_logits)
  got = run(lora.join(base, adapter), noisy, clean, np.array(LENGTHS))
  want = run(lora.merge(jax.tree.map(jnp.copy, base), adapter, adapters), noisy,
             clean, np.array(LENGTHS))
  assert_live(got, np.asarray(want), 1e-4)
  assert np.abs(got - run(base, noisy, clean, np.array(LENGTHS))).max() > 0.1


@pytest.mark.slow
def test_a_mesh_changes_no_value_and_no_gradient():
  cfg = dataclasses.replace(
    networks.SHARDED, kv_heads=2, qk_norm=True, block_length=B)
  model = transformer.build(cfg, MASK)
  params = networks.random_params(model)
  noisy, clean = rows()
  lengths = jnp.array(LENGTHS)

  def loss(params, noisy, clean):
    logits = model.noisy_logits(params, noisy, clean, lengths)
    return jnp.sum(jnp.sin(logits) * LIVE[..., None]), logits

  run = jax.value_and_grad(loss, has_aux=True)
  (_, want), grads = jax.jit(run)(params, noisy, clean)
  mesh = mesh_lib.make(config.MeshConfig(2, 2, 2))
  placed = jax.device_put(params, mesh_lib.param_shardings(
    mesh, layers.SHARDING, params))
  with jax.set_mesh(mesh):
    (_, got), sharded = jax.jit(run)(placed, noisy, clean)
  assert_live(got, np.asarray(want))
  for a, b in zip(jax.tree.leaves(sharded), jax.tree.leaves(grads),
                  strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


def test_what_blocks_do_not_support_is_refused():
  model, params = made()
  full, _ = made(block_length=0)
  noisy, clean = rows()
  with pytest.raises(ValueError, match="full attention"):
    full.noisy_logits(params, noisy, clean)
  with pytest.raises(ValueError, match=r"both be .*\(4, 11\) and \(4, 8\)"):
    model.noisy_logits(params, noisy, clean[:, :8])
  kept = model.clean_stream(params, clean, np.array(LENGTHS))
  positions = np.tile(np.arange(6), (4, 1))
  with pytest.raises(ValueError, match=r"6 columns is not .* blocks of 4"):
    model.noisy_stream(
      params, noisy[:, :6], positions, np.array(LENGTHS), kept)
  with pytest.raises(ValueError, match="noisy_stream"):
    model.hidden_of_part(
      params, clean, np.tile(np.arange(T), (4, 1)), np.array(LENGTHS), kept, 0,
      4)
  with pytest.raises(strict.ConfigError, match=r"model\.shifted = True"):
    transformer.build(dataclasses.replace(CFG, shifted=True), MASK)
