"""Products in 8 bits against NumPy, and rollouts that are made of them."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import networks
import numpy as np
import pytest
import runs
from updates import MASK

from dlrl import config
from dlrl import optimizer
from dlrl import rollout
from dlrl import train
from dlrl.costs import hlo
from dlrl.models import layers
from dlrl.models import lora
from dlrl.models import quantized
from dlrl.models import transformer
from dlrl.run import setup as setup_lib
from dlrl.run import train_state
from dlrl.runtime import mesh as mesh_lib
from dlrl.sampling import denoise
from dlrl.sampling.weights import prepare

pytestmark = pytest.mark.usefixtures("unoptimized")

LARGEST = {"int8": 127.0, "fp8": 448.0}
each = pytest.mark.parametrize("method", LARGEST)
FULL = dataclasses.replace(networks.TINY, heads=4, kv_heads=2)
SAMPLER = config.SamplerConfig(
  gen_length=8, block_length=4, steps=8, temperature=1.0)


def rounded(x, axis, method):
  """x as its format has it, dequantised, in NumPy; and the scales."""
  x, top = np.asarray(x, np.float32), np.float32(LARGEST[method])
  largest = np.abs(x).max(axis, keepdims=True)
  largest = np.where(largest == 0, np.float32(1), largest)
  values = x * (top / largest)
  values = np.round(values) if method == "int8" else values.astype(
    ml_dtypes.float8_e4m3fn)
  scale = np.float64(largest) / top
  return np.float64(values) * scale, scale


def operands(dtype="float32", inputs=48):
  rng = np.random.default_rng(0)
  # Outputs and vectors of very different sizes, and one vector of zeros.
  x = rng.normal(size=(3, 5, inputs)) * 10.0**rng.integers(-3, 3, (3, 5, 1))
  x[1, 2] = 0
  w = rng.normal(size=(2, inputs, 7)) * 10.0**rng.integers(-2, 2, (2, 1, 7))
  return jnp.asarray(x, dtype), jnp.asarray(w, "float32")


@each
@pytest.mark.parametrize("parts", [1, 3])
def test_a_product_is_that_of_rounded_factors(method, parts):
  x, stack = operands()
  made = quantized.eight_bits(stack, method, parts)
  assert made.values.dtype.itemsize == 1 and made.scale.shape == (2, 1, 7)
  got = np.asarray(jax.jit(quantized.product)(
    x, jax.tree.map(lambda a: a[1], made)))
  near_w, scale_w = rounded(stack[1], 0, method)
  near_x, scale_x = rounded(
    np.asarray(x).reshape(3, 5, parts, -1), -1, method)
  near_x = near_x.reshape(x.shape)
  size = np.abs(near_x) @ np.abs(near_w)
  np.testing.assert_array_less(
    np.abs(got - near_x @ near_w), 1e-6 * size + 1e-30)
  # How far that may be from the exact product follows from the scales.
  exact_x, exact_w = np.float64(x), np.float64(stack[1])
  if method == "int8":
    off_x = np.broadcast_to(0.5 * scale_x, (3, 5, parts, 48 // parts)
                            ).reshape(x.shape)
    off_w = np.broadcast_to(0.5 * scale_w, exact_w.shape)
  else:  # below 2^-6 steps are of 2^-9
    off_x, off_w = np.abs(exact_x) / 16 + 1e-5 * np.abs(exact_x).max(
      -1, keepdims=True), np.abs(exact_w) / 16 + 1e-5 * np.abs(exact_w).max(0)
  bound = off_x @ np.abs(exact_w) + (np.abs(exact_x) + off_x) @ off_w
  off = np.abs(got - exact_x @ exact_w)
  assert (off <= 1.001 * bound).all()
  assert off.max() > 1e-3 * bound.max()  # not exact, either
  assert (got[1, 2] == 0).all()


def test_sums_of_integers_are_exact():
  # A sum in bf16 would stop growing, and one in int8 overflow.
  x, w = jnp.ones((1, 1, 4096), jnp.bfloat16), jnp.ones((1, 4096, 3))
  w = w.at[0, ::2].set(-0.5)
  made = jax.tree.map(lambda a: a[0], quantized.eight_bits(w, "int8", 1))
  got = jax.jit(quantized.product)(x, made)
  assert got.dtype == jnp.bfloat16
  want = 2048 * (1 - 64 / 127)
  np.testing.assert_allclose(np.float32(got), want, rtol=2**-8)


@pytest.mark.parametrize("base", ["none", "int8", "nf4"])
def test_matrices_of_the_layers_are_rounded_and_adapters_are_not(base):
  cfg = dataclasses.replace(
    networks.TINY, width=64, heads=4, kv_heads=4, head_dim=16, mlp_width=128)
  if base != "none":
    pytest.importorskip("qwix")
  adapters = config.LoraConfig(rank=2, quantize=base)
  model = transformer.build(cfg, MASK, adapters)
  params = networks.random_params(model)
  quantized.quantize(
    params, networks.shapes_of(model), base,
    lora.paths(params, lora.MATRICES))
  adapter = lora.init(
    jax.random.key(0), lora.shapes(networks.random_params(model), adapters))
  made = jax.jit(lambda p: prepare.in_eight_bits(p, "int8"))(
    lora.join(params, adapter))
  jax.tree.map(np.testing.assert_array_equal, made["adapter"], adapter)

  def one(path, before, after):
    name = networks.path_of(path).removesuffix("/kernel")
    if name not in lora.MATRICES:
      np.testing.assert_array_equal(before, after)
      return
    for w, values, scale in zip(
        np.asarray(quantized.dense(before)), after.values, after.scale,
        strict=True):
      near, size = rounded(w, 0, "int8")
      np.testing.assert_allclose(
        np.float64(values) * np.float64(scale), near, atol=1e-6 * size.max())

  jax.tree.map_with_path(one, params, made["base"],
                         is_leaf=quantized.is_quantized)


def by_hand(x, matrix):
  """`product`, of dequantised factors."""
  n = matrix.parts
  split = x.astype(jnp.float32).reshape(*x.shape[:-1], n, -1)
  scale = jnp.max(jnp.abs(split), -1, keepdims=True) / 127
  near = (jnp.round(split / scale) * scale).reshape(x.shape)
  return (near @ (matrix.values.astype(jnp.float32) * matrix.scale)).astype(
    x.dtype)


def decoded(cfg, quantize, **settings):
  model, params = networks.decodable(cfg, MASK)
  rng = np.random.default_rng(0)
  prompt = rng.integers(3, cfg.vocab_size, (6, 5)).astype(np.int32)
  return jax.jit(functools.partial(
    denoise.decode, model, eos_id=1, sampler=dataclasses.replace(
      SAMPLER, quantize=quantize, **settings)))(
    params, prompt, rng.integers(1, 6, 6),
    jax.random.split(jax.random.key(1), 6))


@pytest.mark.slow
@pytest.mark.parametrize(("cfg", "settings"), [
  (FULL, {}), (FULL, {"cache": "prefix", "gather_once": True}),
  (dataclasses.replace(FULL, block_length=4, qkv_bias=True), {})],
  ids=["exact", "cached", "blocks"])
def test_a_rollout_is_that_of_dequantised_matrices_and_activations(
    cfg, settings, monkeypatch):
  got = decoded(cfg, "int8", **settings)
  exact = decoded(cfg, "none", **settings)
  monkeypatch.setattr(quantized, "product", by_hand)
  want = decoded(cfg, "int8", **settings)
  for field in ("completion", "trace", "forwards"):
    np.testing.assert_array_equal(getattr(got, field), getattr(want, field))
  np.testing.assert_allclose(got.confidence, want.confidence, rtol=1e-3)
  assert np.abs(got.confidence - exact.confidence).max() > 1e-3


@pytest.mark.slow
def test_on_a_mesh_bytes_are_gathered_and_parts_are_not_exchanged_as_integers():
  model, params = networks.decodable(FULL, MASK)
  mesh = mesh_lib.make(config.MeshConfig(1, 4, 2))
  rng = np.random.default_rng(0)
  rows = (rng.integers(3, 24, (16, 5)).astype(np.int32), rng.integers(1, 6, 16),
          jax.random.split(jax.random.key(0), 16))

  def states(params, *rows):
    sampler = dataclasses.replace(SAMPLER, quantize="int8", gather_once=True)
    return denoise.decode(model, params, *rows, sampler=sampler, eos_id=1)

  with jax.set_mesh(mesh):
    args = jax.device_put((params, *rows), (
      mesh_lib.param_shardings(mesh, layers.SHARDING, params),
      *[mesh_lib.batch_sharding(mesh)] * 3))
    run = jax.jit(states)
    got, text = run(*args), run.lower(*args).compile().as_text()
  moved = {c.size for c in hlo.traffic(text, (50,)).collectives
           if c.kind == "all-gather" and c.devices == 4 and c.times == 1}
  stacks = {FULL.layers * FULL.width * n // 2 for n in (
    FULL.heads * FULL.head_dim, FULL.kv_heads * FULL.head_dim,
    FULL.mlp_width)}
  assert stacks <= moved
  assert not moved & {4 * size for size in stacks}
  # Activations that two devices have parts of: [b, t, d].
  assert set(re.findall(
    rf"(\w+)\[[\d,]*,\d+,{FULL.width}\][^=]* all-reduce", text)) == {"f32"}
  # The same without a mesh, with the parts that it makes.
  real = quantized.eight_bits

  def split(kernel, method, parts):
    del parts
    rows = kernel.shape[1:] in (
      (FULL.heads * FULL.head_dim, FULL.width), (FULL.mlp_width, FULL.width))
    return real(kernel, method, 2 if rows else 1)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(quantized, "eight_bits", split)
    want = jax.jit(states)(params, *rows)
  for field in ("completion", "trace"):
    np.testing.assert_array_equal(getattr(got, field), getattr(want, field))
  np.testing.assert_allclose(got.confidence, want.confidence, rtol=1e-4)


@pytest.mark.slow
def test_updates_are_of_the_matrices_as_they_are(sudoku_dir):
  texts = []
  for quantize in ("none", "int8"):
    setup = setup_lib.make(runs.tiny(
      sudoku_dir, rollout__sampler__quantize=quantize))
    with jax.set_mesh(setup.mesh):
      abstract = train_state.abstract_rl(setup)
      decode, learn = train.make_programs(
        setup, optimizer.for_rl(setup.cfg), abstract)
      args = abstract, *rollout.input_shapes(setup)
      texts.append([decode.lower(*args).as_text(), learn.lower(
        *train.learn_shapes(setup, decode, args)).as_text()])
  (exact, first), (rounded, second) = texts
  assert "xi8>" in rounded and "xi8>" not in exact + first
  assert first == second
