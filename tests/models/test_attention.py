"""Attention by every backend against formulas, and no leaks from padding."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.interpreters import partial_eval

from dlrl import config
from dlrl import strict
from dlrl.models import attention
from dlrl.models import layers
from dlrl.models import splash_attention
from dlrl.models import xla_attention
from dlrl.runtime import mesh as mesh_lib

B, T, H, G, K = 2, 136, 4, 2, 128
LENGTHS = np.array([T, 77])
# The second row has three segments, and padding that attends to nothing.
SEGMENTS = (np.arange(T)[None] >= np.array([[60], [30]])).astype(np.int32)
SEGMENTS[1] += np.arange(T) >= 50
SEGMENTS[1] += np.arange(T) >= 77
LIVE = np.arange(T)[None] < LENGTHS[:, None]
backends = pytest.mark.parametrize("backend", ["xla", "splash", "cudnn"])
packed = pytest.mark.parametrize("packed", [False, True])


def inputs(seed=0):
  rng = np.random.default_rng(seed)
  return tuple(jnp.asarray(rng.normal(size=(B, T, n, K)), jnp.float32)
               for n in (H, G, G))


@functools.cache
def runner(backend, packed):
  """Maps (q, k, v, weight) to outputs and gradients of their weighted sum."""
  if backend == "cudnn":
    if packed:
      pytest.skip("cuDNN attention does not support segments")
    if jax.default_backend() != "gpu":
      pytest.skip("cuDNN attention runs on NVIDIA GPUs only; that it is given "
                  "the lengths is tested without one")
  kernel = functools.partial(attention.bidirectional, backend=backend)
  if backend == "splash":  # emulates the TPU
    kernel = functools.partial(splash_attention.attend, interpret=True)
  segments = jnp.asarray(SEGMENTS) if packed else None
  dtype = jnp.bfloat16 if backend == "cudnn" else jnp.float32

  def total(q, k, v, weight):
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    out = kernel(q, k, v, jnp.asarray(LENGTHS, jnp.int32), segments)
    return jnp.sum(out * weight), out

  run = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
  return lambda *args: (lambda r: (r[0][1], r[1]))(run(*args))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  # A row of 136 columns then has two blocks.
  monkeypatch.setattr(splash_attention, "BLOCKS", (128,))


def in_float64(q, k, v, weight, packed):
  """Computes outputs and gradients of their weighted sum by formulas."""
  q, k, v, weight = (np.asarray(x, np.float64) for x in (q, k, v, weight))
  k, v = (np.repeat(x, H // G, 2) for x in (k, v))
  seen = np.broadcast_to(LIVE[:, None], (B, T, T))
  if packed:
    seen = seen & (SEGMENTS[:, :, None] == SEGMENTS[:, None])
  scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(K)
  scores = np.where(seen[:, None], scores, -1e30)
  p = np.exp(scores - scores.max(-1, keepdims=True))
  p /= p.sum(-1, keepdims=True)
  out = np.einsum("bhts,bshk->bthk", p, v)
  of_p = np.einsum("bthk,bshk->bhts", weight, v)
  of_scores = p * (of_p - (of_p * p).sum(-1, keepdims=True)) / np.sqrt(K)

  def shared(x):
    return x.reshape(B, T, G, H // G, K).sum(3)

  return out, (
    np.einsum("bhts,bshk->bthk", of_scores, k),
    shared(np.einsum("bhts,bthk->bshk", of_scores, q)),
    shared(np.einsum("bhts,bthk->bshk", p, weight)))


def weights(where, seed=1):
  rng = np.random.default_rng(seed)
  return jnp.asarray(
    rng.normal(size=(B, T, H, K)) * where[..., None, None], jnp.float32)


@backends
@packed
def test_values_and_gradients_are_those_of_the_formula(backend, packed):
  args = (*inputs(), weights(LIVE))
  out, grads = runner(backend, packed)(*args)
  want, want_grads = in_float64(*args, packed)
  atol = 2e-2 if backend == "cudnn" else 2e-5
  np.testing.assert_allclose(
    np.asarray(out, np.float64)[LIVE], want[LIVE], atol=atol)
  for got, expected in zip(grads, want_grads, strict=True):
    np.testing.assert_allclose(got, expected, atol=atol)
  assert np.isfinite(np.asarray(out)).all()


@backends
@packed
def test_neither_padding_nor_other_segments_leak(backend, packed):
  # Outputs at `looks` must not depend on columns outside of it.
  looks = LIVE & (SEGMENTS == 1) if packed else LIVE
  hidden = ~looks
  assert looks.any(1).all() and hidden.any()
  run, (q, k, v), weight = runner(backend, packed), inputs(), weights(looks)
  out, grads = run(q, k, v, weight)
  at = jnp.asarray(hidden)[..., None, None]
  spoiled = (jnp.where(at, 1e4 * y, x)
             for x, y in zip((q, k, v), inputs(seed=9), strict=True))
  other, other_grads = run(*spoiled, weight)
  np.testing.assert_array_equal(
    np.asarray(out)[looks], np.asarray(other)[looks])
  assert np.isfinite(np.asarray(other)).all()
  for a, b in zip(grads, other_grads, strict=True):
    np.testing.assert_array_equal(np.asarray(a)[looks], np.asarray(b)[looks])
    for x in (a, b):
      np.testing.assert_array_equal(np.asarray(x)[hidden], 0)
      assert (np.asarray(x)[looks] != 0).any((-1, -2)).all()


def test_a_query_that_sees_nothing_has_a_finite_output_and_no_gradient():
  seen = jnp.ones((B, T, T), bool).at[1, 5].set(False)
  out, pull = jax.vjp(
    lambda *args: xla_attention.attend(*args, seen), *inputs())
  assert np.isfinite(np.asarray(out)).all()
  for x in pull(jnp.zeros_like(out).at[1, 5].set(1.0)):
    np.testing.assert_array_equal(x, 0)


def test_xla_attention_in_bf16_has_the_gradients_of_the_formula():
  weight = weights(LIVE)
  args = tuple(x.astype(jnp.bfloat16) for x in inputs())
  seen = jnp.asarray(LIVE)[:, None]
  grads = jax.grad(lambda *args: jnp.sum(
    xla_attention.attend(*args, seen) * weight), (0, 1, 2))(*args)
  _, want = in_float64(*args, weight, packed=False)
  for got, expected in zip(grads, want, strict=True):
    assert got.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(got, np.float64) - expected)
    assert error < 0.01 * np.linalg.norm(expected)


def test_fewer_queries_than_keys_see_the_same():
  q, k, v = inputs()
  lengths = jnp.asarray(LENGTHS)
  whole = attention.bidirectional(q, k, v, lengths)
  part = slice(16, 40)
  for kernel in (attention.bidirectional,
                 functools.partial(splash_attention.attend, segments=None,
                                   interpret=True)):
    np.testing.assert_allclose(
      jax.jit(kernel)(q[:, part], k, v, lengths), whole[:, part], atol=1e-5)


def test_heads_and_rows_are_shared_out_to_devices():
  q, k, v = (jnp.tile(x, (2, 1, 1, 1))[:, :8] for x in inputs())
  lengths = jnp.array([8, 3, 5, 1])
  segments = jnp.asarray(np.arange(32).reshape(4, 8) % 3)
  seen = []

  def kernel(q, k, v, lengths, segments):
    seen.append((q.shape, k.shape, lengths.shape, segments.shape))
    return attention.bidirectional(
      q, k, v, lengths, segments, backend="xla")

  want = kernel(q, k, v, lengths, segments)
  with jax.set_mesh(mesh_lib.make(config.MeshConfig(2, 2, 2))):
    got = jax.jit(functools.partial(attention.on_each_device, kernel))(
      q, k, v, lengths, segments)
  assert seen[-1] == ((1, 8, 2, K), (1, 8, 1, K), (1,), (1, 8))
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(("remat", "want"), [("dots", 3), ("full", 4)])
def test_what_splash_came_to_is_kept_on_every_device(remat, want):
  kernel = functools.partial(
    attention.on_each_device,
    functools.partial(splash_attention.attend, interpret=True),
  )
  args = tuple(jnp.tile(x, (2, 1, 1, 1)) for x in inputs())
  lengths = jnp.array([8, 3, 5, 1])

  def total(q, k, v):
    q = jnp.sin(q)  # something to recompute
    return jnp.sum(kernel(q, k, v, lengths, None) ** 2)

  with jax.set_mesh(mesh_lib.make(config.MeshConfig(2, 2, 2))):
    jaxpr = jax.make_jaxpr(jax.value_and_grad(jax.checkpoint(
      total, policy=layers.REMAT[remat]), (0, 1, 2)))(*args).jaxpr
  # Like XLA, without equations whose results are unused.
  jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  # Forward, once more if nothing is kept, and two kernels backward.
  assert str(jaxpr).count("pallas_call[") == want


def test_cudnn_is_given_the_lengths_in_both_passes(monkeypatch):
  # Lowering needs no GPU, only cuDNN's version, which is unknown without one.
  monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)

  def total(q, k, v, lengths):
    return jnp.sum(attention.bidirectional(
      q, k, v, lengths, backend="cudnn").astype(jnp.float32))

  args = [jax.ShapeDtypeStruct((B, T, n, 64), "bfloat16") for n in (H, G, G)]
  text = jax.jit(jax.grad(total, (0, 1, 2))).trace(
    *args, jax.ShapeDtypeStruct((B,), "int32")).lower(
      lowering_platforms=("cuda",)).as_text()
  calls = re.findall(
    r"custom_call @__cudnn\$fmhaSoftmax(\w*)\(([^)]*)\)"
    r".*?mask_type\\22: \\22(\w+)\\22", text)
  assert [x[0] for x in calls] == ["", "Backward"]
  for _, operands, mask in calls:
    assert operands.endswith("%arg3")  # after the lengths of the queries
    assert mask == "PADDING"
  assert "Bias" not in text


def case(platform="gpu", dtype="bfloat16", heads=32, kv_heads=32, head_dim=128,
         tensor=1, queries=512):
  """Arguments of `limits` and `choose`; the defaults are LLaDA-8B on a GPU."""
  q, k = (jax.ShapeDtypeStruct((1, queries, n, head_dim), dtype)
          for n in (heads, kv_heads))
  return {"q": q, "k": k, "platform": platform, "tensor": tensor}


@pytest.mark.parametrize(("changes", "want"), [
  ({}, "cudnn"),
  ({"head_dim": 64}, "cudnn"),
  ({"head_dim": 100}, "xla"),
  ({"head_dim": 256}, "xla"),
  ({"dtype": "float32"}, "xla"),
  ({"tensor": 4, "kv_heads": 2}, "xla"),
  ({"platform": "cpu"}, "xla"),
  ({"platform": "tpu"}, "splash"),
  ({"platform": "tpu", "dtype": "float32"}, "splash"),
  ({"platform": "tpu", "head_dim": 64}, "xla"),
  ({"platform": "tpu", "tensor": 8, "kv_heads": 4}, "xla"),
])
def test_the_kernel_of_the_platform_is_chosen_where_it_can_be(changes, want):
  assert attention.choose(**case(**changes), packed=False) == want


def test_few_queries_and_packed_rows_may_change_the_choice():
  few, many = (case("tpu", queries=n) for n in (32, 512))
  assert attention.choose(**few, packed=False) == "xla"
  assert attention.choose(**many, packed=True) == "splash"
  assert attention.choose(**case(), packed=True) == "xla"


@pytest.mark.parametrize(("changes", "message"), [
  ({"attention": "splash"}, r"model.attention = 'splash': needs a TPU, but the "
   r"devices are of type 'cpu'; choose 'auto' or 'xla'"),
  ({"attention": "cudnn"}, "model.attention = 'cudnn': needs a GPU"),
])
def test_a_backend_that_the_devices_lack_is_refused(changes, message):
  mesh = mesh_lib.make(config.MeshConfig(8, 1, 1))
  attention.check(config.ModelConfig(), mesh)
  with pytest.raises(strict.ConfigError, match=message):
    attention.check(config.ModelConfig(**changes), mesh)


@pytest.mark.parametrize(("backend", "changes", "fields"), [
  ("splash", {"platform": "tpu"}, []),
  ("splash", {"platform": "tpu", "head_dim": 64}, ["model.head_dim"]),
  ("splash", {"platform": "tpu", "tensor": 64}, ["mesh.tensor"]),
  ("cudnn", {}, []),
  ("cudnn", {"dtype": "float32", "head_dim": 192},
   ["model.head_dim", "model.compute_dtype"]),
])
def test_limits_are_named_with_a_way_out(backend, changes, fields):
  found = attention.limits(backend, **case(**changes))
  assert [field for field, _, _ in found] == fields
  assert all("set model.attention to 'xla'" in fix for *_, fix in found)


def test_cudnn_refuses_packed_rows():
  with pytest.raises(ValueError, match="use 'xla'"):
    attention.bidirectional(*inputs(), jnp.asarray(LENGTHS),
                            jnp.asarray(SEGMENTS), backend="cudnn")
