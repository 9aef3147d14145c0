"""Quantised matrices against NumPy and against dense ones."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import updates

from dlrl import config
from dlrl.models import layers
from dlrl.models import lora
from dlrl.models import quantized
from dlrl.models import transformer
from dlrl.runtime import mesh as mesh_lib

pytest.importorskip("qwix")

# The inputs of every matrix are a multiple of NF4's tile of 64.
CFG = dataclasses.replace(
  networks.TINY, width=64, heads=4, kv_heads=4, head_dim=16, mlp_width=128)
# The 16 values of NF4: QLoRA, appendix E.
NF4 = np.array([
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
  -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
  0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
  0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
  0.7229568362236023, 1.0], np.float32)
each = pytest.mark.parametrize("method", quantized.METHODS)


def rounded(w, method):
  """Quantises and dequantises a matrix [in, out], in NumPy."""
  if method == "int8":
    scale = np.abs(w).max(0) / np.float32(127.5)
    return np.clip(np.round(w / scale), -128, 127) * scale
  tiles = w.reshape(-1, 64, w.shape[1])
  scale = np.abs(tiles).max(1, keepdims=True)
  nearest = np.abs((tiles / scale)[..., None] - NF4).argmin(-1)
  return (NF4[nearest] * scale).reshape(w.shape)


@functools.cache
def made(method):
  """(model, base of arrays, its quantised form, adapter)."""
  cfg = config.LoraConfig(rank=2, quantize=method)
  model = transformer.build(CFG, updates.MASK, cfg)
  base = networks.random_params(model)
  small = jax.tree.map(jnp.copy, base)
  quantized.quantize(
    small, networks.shapes_of(model), method, lora.paths(base, lora.MATRICES))
  rng = np.random.default_rng(1)
  adapter = jax.tree.map(
    lambda s: jnp.asarray(0.1 * rng.normal(size=s.shape), s.dtype),
    lora.shapes(base, cfg))
  return model, base, small, adapter


def dense(params):
  return jax.tree.map(
    quantized.dense, params, is_leaf=quantized.is_quantized)


@each
def test_matrices_of_the_layers_are_rounded_and_the_rest_is_not(method):
  _, base, small, _ = made(method)

  def one(path, before, after):
    matrix = networks.path_of(path).removesuffix("/kernel")
    if matrix not in lora.MATRICES:
      np.testing.assert_array_equal(before, after)
      return
    want = np.stack([rounded(np.asarray(w), method) for w in before])
    # A value midway between two levels may be rounded either way.
    off = np.abs(np.asarray(after) - want) > 1e-5
    assert off.mean() < 1e-2, matrix
    away, nearest = (np.abs(np.asarray(before) - x) for x in (after, want))
    assert (away < nearest + 1e-6).all()
    assert nearest.max() > 1e-3

  jax.tree.map_with_path(one, base, dense(small))
  kernel = small["layers"]["mlp"]["up"]["kernel"]
  assert kernel.qvalue.dtype == {"int8": "int8", "nf4": "uint4"}[method]
  assert kernel.scale.size == kernel.qvalue.size // 64


def loss(model, trained, base):
  ids = np.random.default_rng(0).integers(0, 24, (8, 7))
  row = ids, np.tile(np.arange(7), (8, 1)), np.full(8, 7)
  return jnp.sum(jnp.sin(model.hidden(lora.join(base, trained), *row)))


@each
def test_gradients_of_adapters_are_those_on_the_rounded_base(method):
  model, _, small, adapter = made(method)
  grad = jax.jit(jax.value_and_grad(functools.partial(loss, model)),
                 compiler_options=updates.FAST)
  got, grads = grad(adapter, small)
  want, expected = grad(adapter, dense(small))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  updates.assert_same(grads, expected)


@pytest.mark.slow
def test_a_quantised_base_may_be_split_over_a_mesh():
  method = "nf4"
  model, base, small, adapter = made(method)
  grad = jax.jit(jax.grad(functools.partial(loss, model)),
                 compiler_options=updates.FAST)
  want = grad(adapter, small)
  mesh = mesh_lib.make(config.MeshConfig(2, 2, 2))
  placed = mesh_lib.param_shardings(mesh, layers.SHARDING, base)
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), base,
    placed)
  split = jax.device_put(base, placed)
  paths = lora.paths(base, lora.MATRICES)
  quantized.quantize(split, abstract, method, paths)
  like = quantized.shapes(abstract, method, paths)
  jax.tree.map(
    lambda x, s: (x.shape, x.dtype, x.sharding) == (
      s.shape, s.dtype, s.sharding) or pytest.fail(f"{x.sharding} {s}"),
    split, like)
  kernel = split["layers"]["attention"]["q"]["kernel"].qvalue
  assert {s.data.size for s in kernel.addressable_shards} == {kernel.size // 4}
  with jax.set_mesh(mesh):
    got = grad(adapter, split)
  updates.assert_same(got, want, rtol=1e-4)


@each
def test_merging_gives_the_policy_that_was_trained(method):
  model, _, small, adapter = made(method)
  whole = lora.merge(small, adapter, model.adapters)
  assert {x.dtype for x in jax.tree.leaves(whole)} == {jnp.dtype("float32")}
  ids = np.random.default_rng(0).integers(0, 24, (2, 7))
  np.testing.assert_allclose(
    jax.jit(model.logits)(whole, ids),
    jax.jit(model.logits)(lora.join(small, adapter), ids), atol=1e-4)
