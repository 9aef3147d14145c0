"""Chunked log-probs and entropies against all the logits at once."""

import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from collectives import collectives
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from updates import FAST

from dlrl import config
from dlrl.diffusion import token_logps
from dlrl.models import layers
from dlrl.models import transformer
from dlrl.runtime import mesh as mesh_lib

B, T, D, V = 4, 10, 6, 17


def case(seed=0, dtype=jnp.float32, scale=1.0, v=V, offset=0.0):
  rng = np.random.default_rng(seed)
  hidden = scale * rng.normal(size=(B, T, D))
  unembed = rng.normal(size=(D, v))
  if offset:
    hidden[..., 0], unembed[0] = 1, offset
  targets = jnp.asarray(rng.integers(0, v, (B, T)), jnp.int32)
  mask = jnp.asarray(rng.random((B, T)) < 0.6)
  return jnp.asarray(hidden, dtype), jnp.asarray(unembed, dtype), targets, mask


def weights(seed):
  """Random weights of the log-probs and of the entropies, [2, B, T]."""
  return np.random.default_rng(seed).normal(size=(2, B, T)).astype(np.float32)


def weighted(weight, **kwargs):
  """(hidden, unembed, targets, mask) -> ((sum, outputs), gradients)."""
  def total(*args):
    out = token_logps.token_logps(*args, **kwargs)
    assert {x.dtype for x in out} == {jnp.dtype("float32")}
    return jnp.sum(weight[0] * out.logps + weight[1] * out.entropy), out

  return jax.value_and_grad(total, (0, 1), has_aux=True)


def jitted(weight, **kwargs):
  return jax.jit(weighted(weight, **kwargs), compiler_options=FAST)


def in_float64(hidden, unembed, targets, mask, weight):
  """Log-probs, entropies, gradients of their weighted sum, and error scales.

  The scale of a gradient is the sum of the absolute values of its terms.
  """
  h, u = np.asarray(hidden, np.float64), np.asarray(unembed, np.float64)
  logits = h @ u
  logits -= logits.max(-1, keepdims=True)
  logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  p = np.exp(logp)
  at = np.asarray(targets)[..., None]
  picked = np.take_along_axis(logp, at, -1)[..., 0]
  entropy = -(p * logp).sum(-1)
  hit = np.zeros_like(p)
  np.put_along_axis(hit, at, 1, -1)
  w = (np.asarray(weight) * np.asarray(mask))[..., None]
  # d logp / d logits = onehot - softmax; d entropy = -p (logp + entropy)
  slope = w[0] * (hit - p) - w[1] * p * (logp + entropy[..., None])
  size = abs(w[0]) * (hit + p) + abs(w[1]) * p * (
    abs(logp) + entropy[..., None])
  return (np.where(mask, picked, 0), np.where(mask, entropy, 0),
          (slope @ u.T, np.einsum("btd,btv->dv", h, slope)),
          (size @ abs(u).T, np.einsum("btd,btv->dv", abs(h), size)))


def assert_gradients(grads, want, size, rtol):
  """Compares gradients with tolerance `rtol` times their scale."""
  for got, true, terms in zip(grads, want, size, strict=True):
    error = abs(np.asarray(got, np.float64) - true)
    assert (error <= rtol * terms + 1e-12).all(), (error / (terms + 1e-9)).max()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("v", [4097, 4096, 126464, 152064])
def test_both_and_their_gradients_are_exact_wherever_the_logits_are(v, dtype):
  weight = weights(1)[:, :2, :5]
  run = jitted(weight, chunk=4)
  for offset in (-50.0, 0.0, 50.0):
    hidden, unembed, targets, mask = case(0, dtype, v=v, offset=offset)
    args = hidden[:2, :5], unembed, targets[:2, :5], mask[:2, :5]
    (_, out), grads = run(*args)
    logps, entropy, *want = in_float64(*args, weight)
    # A logit of 50 already has an error of 4e-6.
    np.testing.assert_allclose(out.logps, logps, rtol=0, atol=1e-5)
    np.testing.assert_allclose(out.entropy, entropy, rtol=0, atol=1e-5)
    assert {x.dtype for x in grads} == {jnp.dtype(dtype)}
    assert_gradients(grads, *want, 2e-5 if dtype == "float32" else 2**-7)


@pytest.mark.parametrize(
  ("chunk", "shards"), [(3, 1), (16, 1), (20, 1), (64, 1), (1, 4), (8, 2)])
def test_neither_chunks_nor_shards_change_anything(chunk, shards):
  args, weight = case(2), weights(3)
  (_, out), grads = jitted(weight, chunk=chunk, shards=shards)(*args)
  logps, entropy, *want = in_float64(*args, weight)
  np.testing.assert_allclose(out.logps, logps, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(out.entropy, entropy, rtol=1e-5, atol=1e-5)
  assert_gradients(grads, *want, 1e-5)


def test_what_is_not_masked_is_zero_and_gets_no_gradient():
  hidden, unembed, targets, mask = case(3)
  (_, out), (grad, _) = jitted(weights(4), chunk=16)(
    hidden, unembed, targets, mask)
  dead = ~np.asarray(mask)
  assert dead.any()
  for x in (*out, grad):
    assert (np.asarray(x)[dead] == 0).all()
  assert (np.asarray(out.logps)[~dead] < 0).all()
  assert (np.asarray(out.entropy)[~dead] > 0).all()
  assert (np.asarray(grad)[~dead] != 0).any(-1).all()


def test_garbage_where_nothing_is_masked_changes_nothing():
  hidden, unembed, targets, mask = case(4)
  run = jitted(weights(5), chunk=12)
  want = run(hidden, unembed, targets, mask)
  for garbage in (1e30, -1e30, np.inf, np.nan):
    got = run(jnp.where(mask[..., None], hidden, garbage), unembed,
              jnp.where(mask, targets, V + 7), mask)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_extreme_bf16_logits_stay_finite():
  args = case(5, jnp.bfloat16, scale=1e4)
  (_, out), grads = jitted(weights(6), chunk=16)(*args)
  # Logits are accumulated in fp32, far more exact than bf16's 8 bits.
  logps, entropy, *_ = in_float64(*args, weights(6))
  np.testing.assert_allclose(out.logps.sum(), logps.sum(), rtol=1e-5)
  np.testing.assert_allclose(out.entropy, entropy, atol=1e-5)
  assert abs(logps.sum()) > 1e5
  for grad in grads:
    assert np.isfinite(np.asarray(grad, np.float32)).all()


def test_draws_side_by_side_are_draws_one_by_one():
  hidden, unembed, targets, _ = case(6)
  masks = jnp.asarray(np.random.default_rng(7).random((3, B, T)) < 0.3)
  run = weighted(weights(8), chunk=8)
  together = jax.jit(
    jax.vmap(run, (None, None, None, 0)), compiler_options=FAST)(
      hidden, unembed, targets, masks)
  one = jax.jit(run, compiler_options=FAST)
  for j in range(3):
    alone = one(hidden, unembed, targets, masks[j])
    jax.tree.map(
      lambda a, b, j=j: np.testing.assert_allclose(a[j], b, atol=1e-5),
      together, alone)


@pytest.mark.parametrize(("shards", "want"), [(1, 3), (2, 5)])
def test_only_chunks_with_a_masked_position_are_computed(
  monkeypatch, shards, want
):
  plain, computed = token_logps._log_softmax, []

  def counting(*args):
    jax.debug.callback(lambda: computed.append(1))
    return plain(*args)

  monkeypatch.setattr(token_logps, "_log_softmax", counting)
  mask = np.zeros((B, T), bool)
  mask[0, 2:9] = mask[1] = mask[3, 7:9] = True
  args = (*case(9)[:3], jnp.asarray(mask))
  _, grads = jitted(weights(9), chunk=8 // shards, shards=shards)(*args)
  jax.block_until_ready(grads)
  jax.effects_barrier()
  # A chunk has 8 positions, for 19 masked ones. Of two shards, it has 4 in
  # each, for 17 and 2. Both passes compute each chunk once.
  assert len(computed) == 2 * want


def test_rows_that_cannot_be_shared_out_are_refused():
  with pytest.raises(ValueError, match="3 shards do not divide 4 rows"):
    token_logps.token_logps(*case(), chunk=2, shards=3)


def naive(hidden, unembed, targets, mask):
  """Log-probs from all logits at once."""
  logps = jax.nn.log_softmax(hidden @ unembed)
  picked = jnp.take_along_axis(logps, targets[..., None], -1)[..., 0]
  return jnp.where(mask, picked, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_that_of_a_chunk_and_a_gradient(dtype):
  b, d, v, chunk = 2, 16, 126464, 8

  def temporaries(f, t):
    args = [jax.ShapeDtypeStruct(*x) for x in (
      ((b, t, d), dtype), ((d, v), dtype), ((b, t), "int32"), ((b, t), "bool"))]
    compiled = jax.jit(jax.value_and_grad(
      lambda *args: jnp.sum(f(*args)), (0, 1)), compiler_options=FAST).lower(
        *args).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  def both(*args):
    out = token_logps.token_logps(*args, chunk=chunk)
    return out.logps + out.entropy

  of_chunk, of_unembed = 4 * chunk * v, 4 * d * v
  sizes = [temporaries(both, t) for t in (32, 128)]
  assert max(sizes) < of_unembed + 4 * of_chunk < 4 * b * 32 * v
  assert sizes[1] - sizes[0] < of_chunk / 20
  assert temporaries(naive, 32) > 4 * b * 32 * v  # the measure can see them


def test_devices_exchange_sums_and_never_logits():
  rows, t, width, vocab, chunk = 8, 32, 16, 4096, 16
  model = transformer.build(config.ModelConfig(
    vocab_size=vocab, width=width, layers=1, heads=2, kv_heads=2, head_dim=8,
    mlp_width=16), 2)
  params = networks.random_params(model)
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(rows, t, width)), jnp.float32)
  targets = jnp.asarray(rng.integers(0, vocab, (rows, t)), jnp.int32)
  mask = jnp.asarray(rng.random((rows, t)) < 0.5)

  def total(hidden, params):
    out = token_logps.token_logps(
      hidden, model.unembed(params), targets, mask, chunk=chunk,
      shards=mesh_lib.batch_parts(rows))
    return jnp.sum(out.logps * jnp.cos(targets) + out.entropy), out

  run = jax.value_and_grad(total, (0, 1), has_aux=True)
  want = jax.jit(run)(hidden, params)
  mesh = mesh_lib.make(config.MeshConfig(2, 2, 2))
  shardings = mesh_lib.param_shardings(mesh, layers.SHARDING, params)
  by_rows = NamedSharding(mesh, P(("data", "fsdp")))
  with jax.set_mesh(mesh):
    compiled = jax.jit(run, in_shardings=(by_rows, shardings), out_shardings=(
      None, (by_rows, shardings))).lower(hidden, params).compile()
    got = compiled(jax.device_put(hidden, by_rows),
                   jax.device_put(params, shardings))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4,
                                 atol=1e-5), got, want)

  # Sizes of one device's part of a chunk's logits and of the matrix.
  logits, matrix = chunk * vocab // 2, width * vocab // 2
  large = [x for x in collectives(compiled.as_text())
           if x[2] >= min(logits, matrix)]
  # The matrix is gathered once and its gradient summed once, out of all loops.
  assert sorted((where, what) for where, what, _ in large) == [
    ("ENTRY", "all-gather"), ("ENTRY", "all-reduce")]
  assert {n for _, _, n in large} == {matrix}
