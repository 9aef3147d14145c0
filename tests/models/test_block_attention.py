"""Attention with blocks, by every backend, against formulas in float64."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from dlrl import config
from dlrl.costs.flops import flops
from dlrl.models import attention
from dlrl.models import layers
from dlrl.models import splash_attention
from dlrl.models import transformer
from dlrl.models import xla_attention
from dlrl.runtime import mesh as mesh_lib

# Prompts that are and are not multiples of block lengths; rows that end inside
# of a block, at its end, and in the first block.
PROMPTS, LENGTHS = np.array([32, 5, 1]), np.array([141, 64, 2])
B, T, H, G, K = len(LENGTHS), 141, 4, 2, 128
LIVE = np.arange(T)[None] < LENGTHS[:, None]
lengths_of_blocks = pytest.mark.parametrize("size", [1, 4, 8, 32])
backends = pytest.mark.parametrize("backend", ["xla", "splash", "cudnn"])

pytestmark = pytest.mark.usefixtures("unoptimized", "emulated")


@pytest.fixture
def emulated(monkeypatch):
  """Runs the kernels' code on a CPU: splash interpreted, cuDNN's call by XLA.

  Tiles of 128, of which the rows here have two.
  """
  monkeypatch.setattr(splash_attention, "BLOCKS", (128,))
  for name in ("attend_clean", "attend_noisy"):
    monkeypatch.setattr(splash_attention, name, functools.partial(
      getattr(splash_attention, name), interpret=True))
  if jax.default_backend() != "gpu":
    kernel = jax.nn.dot_product_attention

    def same(*args, implementation, **options):
      assert implementation == "cudnn"
      return kernel(*args, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", same)


def arrays(*shapes, seed=0):
  rng = np.random.default_rng(seed)
  return tuple(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)


def in_float64(q, k, v, seen, weight):
  """Computes outputs and gradients of their weighted sum by formulas."""
  q, k, v, weight = (np.asarray(x, np.float64) for x in (q, k, v, weight))
  g, width = k.shape[2:]
  k, v = (np.repeat(x, q.shape[2] // g, 2) for x in (k, v))
  scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(width)
  scores = np.where(seen[:, None], scores, -1e30)
  p = np.exp(scores - scores.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  of_p = np.einsum("bthk,bshk->bhts", weight, v)
  of_scores = p * (of_p - (of_p * p).sum(-1, keepdims=True)) / np.sqrt(width)

  def shared(x):
    return x.reshape(*x.shape[:2], g, -1, width).sum(3)

  return np.einsum("bhts,bshk->bthk", p, v), (
    np.einsum("bhts,bshk->bthk", of_scores, k),
    shared(np.einsum("bhts,bthk->bshk", of_scores, q)),
    shared(np.einsum("bhts,bthk->bshk", p, weight)))


def on_gpu(backend):
  """Whether this is cuDNN itself, in bf16, and not XLA in its place."""
  return backend == "cudnn" and jax.default_backend() == "gpu"


def run(kernel, weight, *args):
  """Outputs, and gradients of their weighted sum to all of `args`."""
  def total(*args):
    if on_gpu(kernel.keywords.get("backend")):
      args = (x.astype(jnp.bfloat16) for x in args)
    out = kernel(*args)
    return jnp.sum(out * weight), out

  (_, out), grads = jax.jit(jax.value_and_grad(
    total, tuple(range(len(args))), has_aux=True))(*args)
  return np.asarray(out), [np.asarray(x) for x in grads]


def weights(live, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(
    rng.normal(size=(*live.shape, H, K)) * live[..., None, None], jnp.float32)


def noisy_case(size):
  """Positions [b, w] from the prompt's last block on, and which are tokens."""
  first = PROMPTS // size * size
  width = -(-(T - first.min()) // size) * size
  positions = first[:, None] + np.arange(width)
  return positions, positions < LENGTHS[:, None]


def noisy_mask(positions, size):
  """[b, w, T + w] bool: what noisy queries see of [clean | noisy]."""
  asks = positions[:, :, None] // size
  clean = (np.arange(T) // size < asks) & LIVE[:, None]
  own = (positions // size)[:, None] == asks
  return np.concatenate(
    [clean, own & (positions < LENGTHS[:, None])[:, None]], -1)


def noisy_arrays(w, seed=0):
  return arrays(*((B, w, n, K) for n in (H, G, G)),
                *((B, T, n, K) for n in (G, G)), seed=seed)


def noisy_kernel(backend, positions, size):
  blocks = attention.noisy_blocks(
    jnp.asarray(positions), jnp.asarray(LENGTHS), size)
  return functools.partial(attention.noisy, blocks=blocks, backend=backend)


@backends
@lengths_of_blocks
def test_the_clean_stream_is_that_of_a_dense_mask(backend, size):
  args, weight = arrays(*((B, T, n, K) for n in (H, G, G))), weights(LIVE)
  block = np.arange(T) // size
  seen = (block <= block[:, None]) & LIVE[:, None]
  out, grads = run(functools.partial(
    attention.clean, lengths=jnp.asarray(LENGTHS),
    start=jnp.zeros(B, jnp.int32), block_length=size, backend=backend), weight,
    *args)
  want, want_grads = in_float64(*args, seen, weight)
  atol = 2e-2 if on_gpu(backend) else 2e-5
  np.testing.assert_allclose(out[LIVE], want[LIVE], atol=atol)
  assert np.isfinite(out).all()
  for got, expected in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(got, expected, atol=2.5 * atol)
    np.testing.assert_array_equal(got[~LIVE], 0)


@backends
@lengths_of_blocks
def test_clean_columns_continue_other_prefixes_in_each_row(backend, size):
  # As completions after the whole blocks of their prompts.
  start = PROMPTS // size * size
  t = T - start.max()
  column = start[:, None] + np.arange(t)
  live = column < LENGTHS[:, None]
  q, = arrays((B, t, H, K))
  k, v = arrays((B, T, G, K), (B, T, G, K), seed=2)
  weight = weights(live)
  out, grads = run(functools.partial(
    attention.clean, lengths=jnp.asarray(LENGTHS), start=jnp.asarray(start),
    block_length=size, backend=backend), weight, q, k, v)
  seen = (np.arange(T) // size <= column[..., None] // size) & LIVE[:, None]
  want, want_grads = in_float64(q, k, v, seen, weight)
  atol = 2e-2 if on_gpu(backend) else 2e-5
  np.testing.assert_allclose(out[live], want[live], atol=atol)
  assert np.isfinite(out).all()
  for got, expected in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(got, expected, atol=2.5 * atol)
  for got in grads[1:]:
    np.testing.assert_array_equal(got[~LIVE], 0)


@backends
@lengths_of_blocks
def test_the_noisy_stream_is_that_of_a_dense_mask(backend, size):
  positions, live = noisy_case(size)
  args, weight = noisy_arrays(positions.shape[1]), weights(live)
  q, k, v, clean_k, clean_v = args
  out, (q_grad, *grads) = run(
    noisy_kernel(backend, positions, size), weight, *args)
  want, (want_q, *both) = in_float64(
    q, np.concatenate([clean_k, k], 1), np.concatenate([clean_v, v], 1),
    noisy_mask(positions, size), weight)
  atol = 2e-2 if on_gpu(backend) else 2e-5
  np.testing.assert_allclose(out[live], want[live], atol=atol)
  assert np.isfinite(out).all()
  np.testing.assert_allclose(q_grad, want_q, atol=2.5 * atol)
  for i, (x, there) in enumerate(
      [(x[:, T:], live) for x in both] + [(x[:, :T], LIVE) for x in both]):
    np.testing.assert_allclose(grads[i], x, atol=2.5 * atol)
    np.testing.assert_array_equal(grads[i][~there], 0)


@backends
def test_blocks_may_be_in_any_order_and_a_single_block_incomplete(backend):
  for positions in (np.array([[8, 9, 10, 11, 0, 1, 2, 3]] * B),
                    np.array([[4, 5, 6], [32, 33, 34], [0, 1, 2]])):
    live = positions < LENGTHS[:, None]
    q, k, v, clean_k, clean_v = args = noisy_arrays(positions.shape[1])
    out, _ = run(noisy_kernel(backend, positions, 4), weights(live), *args)
    want, _ = in_float64(
      q, np.concatenate([clean_k, k], 1), np.concatenate([clean_v, v], 1),
      noisy_mask(positions, 4), weights(live))
    atol = 2e-2 if on_gpu(backend) else 2e-5
    np.testing.assert_allclose(out[live], want[live], atol=atol)


def test_a_noisy_query_that_sees_nothing_has_no_gradient():
  q, k, v, more_k, more_v = noisy_arrays(8)
  before = jnp.ones((B, 2, T), bool).at[1, 1].set(False)
  live = jnp.ones((B, 2, 1, 4), bool).at[1, 1].set(False)
  out, grads = run(functools.partial(
    xla_attention.attend_blocks, before=before, live=live),
    jnp.zeros_like(q).at[1, 4:].set(1.0), q, k, v, more_k, more_v)
  assert np.isfinite(out).all()
  for x in grads:
    np.testing.assert_array_equal(x, 0)


def test_noisy_attention_in_bf16_has_the_gradients_of_the_formula():
  positions, live = noisy_case(4)
  args = tuple(x.astype(jnp.bfloat16)
               for x in noisy_arrays(positions.shape[1]))
  weight = weights(live)
  _, grads = run(noisy_kernel("xla", positions, 4), weight, *args)
  q, k, v, clean_k, clean_v = (np.asarray(x, np.float64) for x in args)
  _, (want_q, *both) = in_float64(
    q, np.concatenate([clean_k, k], 1), np.concatenate([clean_v, v], 1),
    noisy_mask(positions, 4), weight)
  want = [want_q, *(x[:, T:] for x in both), *(x[:, :T] for x in both)]
  for got, expected in zip(grads, want, strict=True):
    assert got.dtype == jnp.bfloat16
    error = np.linalg.norm(got.astype(np.float64) - expected)
    assert error < 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize(("remat", "passes"), [
  ("none", 3), ("dots", 3.5), ("full", 4)])
def test_the_backward_pass_recomputes_scores_only(remat, passes):
  positions, _ = noisy_case(4)
  args = [jax.ShapeDtypeStruct((*x.shape[:3], 8), x.dtype)
          for x in noisy_arrays(positions.shape[1])]
  kernel = noisy_kernel("xla", positions, 4)

  def layer(q, *args):
    return kernel(jnp.sin(q), *args)  # something to recompute

  if remat != "none":
    layer = jax.checkpoint(layer, policy=layers.REMAT[remat])
  found = flops(jax.grad(lambda *args: jnp.sum(layer(*args) ** 2),
                         tuple(range(5))), *args)
  # One product of the backward pass is not needed: that with outputs.
  assert found == passes * flops(kernel, *args)
  saved = jax.eval_shape(lambda *args: jax.vjp(layer, *args)[1], *args)
  largest = max(x.size for x in jax.tree.leaves(saved))
  scores = B * H * positions.shape[1] * T
  assert largest == scores if remat == "none" else largest < scores / 2


def test_splash_skips_tiles_that_no_row_needs(monkeypatch):
  masks = []
  made = splash_attention._kernel

  def kernel(mask, *args):
    masks.append(mask)
    return made(mask, *args)

  monkeypatch.setattr(splash_attention, "_kernel", kernel)
  positions, _ = noisy_case(4)
  q, k, v, *_ = noisy_arrays(T)
  jax.eval_shape(functools.partial(
    attention.clean, lengths=jnp.asarray(LENGTHS),
    start=jnp.zeros(B, jnp.int32), block_length=4, backend="splash"), q, k, v)
  jax.eval_shape(noisy_kernel("splash", positions, 4),
                 *noisy_arrays(positions.shape[1]))

  def tiles(mask):  # the kernel skips those of which nothing is seen
    parts = [[slice(at, at + 128) for at in range(0, n, 128)]
             for n in mask.shape]
    return [[mask[rows, columns].any() for columns in parts[1]]
            for rows in parts[0]]

  # Of keys, two tiles of clean and two of noisy columns.
  assert [tiles(mask) for mask in masks] == [
    [[1, 0], [1, 1]], [[1, 1, 1, 0], [1, 1, 0, 1]]]


def test_splash_refuses_more_blocks_than_its_numbers_can_tell_apart():
  big = 2**16
  q, k = (jax.ShapeDtypeStruct((1, big, n, K), "bfloat16") for n in (H, G))
  blocks = attention.NoisyBlocks(
    jax.ShapeDtypeStruct((1, big), "int32"),
    jax.ShapeDtypeStruct((1, big, 1, 1), "bool"))
  with pytest.raises(ValueError, match="65536 noisy blocks after 65536 clean"):
    jax.eval_shape(functools.partial(attention.noisy, backend="splash"),
                   q, k, k, k, k, blocks)


@pytest.mark.parametrize("stream", ["clean", "noisy"])
def test_cudnn_is_given_a_bias_in_both_passes(monkeypatch, stream):
  # Lowering needs no GPU, only cuDNN's version, which is unknown without one.
  monkeypatch.undo()
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
  q, k = (jax.ShapeDtypeStruct((2, 12, n, 64), "bfloat16") for n in (H, G))
  more = jax.ShapeDtypeStruct((2, T, G, 64), "bfloat16")
  lengths = jnp.array([12, 7])
  if stream == "clean":
    args, keys = (q, k, k), 12
    kernel = functools.partial(
      attention.clean, lengths=lengths, start=jnp.zeros(2, jnp.int32),
      block_length=4, backend="cudnn")
  else:
    args, keys = (q, k, k, more, more), 12 + T + 1  # even
    blocks = attention.noisy_blocks(
      jnp.tile(jnp.arange(12)[None], (2, 1)), lengths, 4)
    kernel = functools.partial(
      attention.noisy, blocks=blocks, backend="cudnn")
  text = jax.jit(jax.grad(
    lambda *args: jnp.sum(kernel(*args).astype(jnp.float32)),
    tuple(range(len(args))))).trace(*args).lower(
      lowering_platforms=("cuda",)).as_text()
  calls = re.findall(r"custom_call @__cudnn\$fmhaScaleBiasSoftmax(\w*)\(", text)
  assert calls == ["", "Backward"]
  # One bias for all heads.
  assert text.count(f"tensor<2x1x12x{keys}xbf16>") >= 2
  assert "fmhaSoftmax" not in text


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["splash", "cudnn"])
def test_a_model_on_a_mesh_is_the_same_with_every_backend(
    monkeypatch, backend):
  if jax.device_count() < 8:
    pytest.skip("needs eight devices")
  rng = np.random.default_rng(0)
  lengths, t = jnp.array([8, 3, 5, 1]), 8
  clean, noisy = rng.integers(3, 24, (2, 4, t))
  live = np.arange(t)[None] < np.asarray(lengths)[:, None]
  called = []
  for name in ("attend_clean", "attend_noisy"):
    monkeypatch.setattr(splash_attention, name, functools.partial(
      lambda f, *args, **options: called.append(f) or f(*args, **options),
      getattr(splash_attention, name)))

  def of(backend, mesh):
    model = transformer.build(dataclasses.replace(
      networks.SHARDED, layers=1, kv_heads=2, block_length=4, remat="dots",
      attention=backend), 2)
    params = networks.random_params(model)

    def loss(params):
      logits = model.noisy_logits(params, noisy, clean, lengths)
      return jnp.sum(jnp.sin(logits) * live[..., None])

    if mesh is None:
      return jax.jit(jax.value_and_grad(loss))(params)
    placed = jax.device_put(params, mesh_lib.param_shardings(
      mesh, layers.SHARDING, params))
    with jax.set_mesh(mesh):
      return jax.jit(jax.value_and_grad(loss))(placed)

  value, grads = of("xla", None)
  got, sharded = of(backend, mesh_lib.make(config.MeshConfig(2, 2, 2)))
  np.testing.assert_allclose(got, value, rtol=1e-5)
  for a, b in zip(jax.tree.leaves(sharded), jax.tree.leaves(grads),
                  strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())
  assert len(set(called)) == (2 if backend == "splash" else 0)


@pytest.mark.parametrize(("platform", "queries", "want"), [
  ("tpu", 512, "splash"), ("tpu", 32, "xla"), ("gpu", 512, "xla"),
  ("cpu", 512, "xla")])
def test_the_backend_of_blocks_is_chosen_by_platform(
    monkeypatch, platform, queries, want):
  monkeypatch.setattr(mesh_lib, "platform", lambda: platform)
  q, k = (jax.ShapeDtypeStruct((1, queries, n, 128), "bfloat16")
          for n in (H, G))
  assert attention.resolve("auto", q, k, packed=True) == want
  assert attention.resolve("cudnn", q, k, packed=True) == "cudnn"
