"""Chunked log-probs against all the logits at once."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl.diffusion import token_logps

B, T, D, V = 3, 10, 6, 17
chunks = pytest.mark.parametrize("chunk", [1, 4, 5, 64])


def case(seed=0, dtype=jnp.float32, scale=1.0):
  rng = np.random.default_rng(seed)
  hidden = jnp.asarray(scale * rng.normal(size=(B, T, D)), dtype)
  unembed = jnp.asarray(rng.normal(size=(D, V)), dtype)
  targets = jnp.asarray(rng.integers(0, V, (B, T)), jnp.int32)
  mask = jnp.asarray(rng.random((B, T)) < 0.6)
  return hidden, unembed, targets, mask


def in_float64(hidden, unembed, targets, mask):
  logits = np.asarray(hidden, np.float64) @ np.asarray(unembed, np.float64)
  top = logits.max(-1, keepdims=True)
  logps = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
  picked = np.take_along_axis(logps, np.asarray(targets)[..., None], -1)[..., 0]
  return np.where(mask, picked, 0.0)


def naive(hidden, unembed, targets, mask):
  """With all the logits at once."""
  logps = jax.nn.log_softmax(hidden @ unembed)
  picked = jnp.take_along_axis(logps, targets[..., None], -1)[..., 0]
  return jnp.where(mask, picked, 0.0)


@chunks
def test_values_are_those_of_float64_log_softmax(chunk):
  args = case()
  got = token_logps.token_logps(*args, chunk=chunk).logps
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, in_float64(*args), rtol=1e-5, atol=1e-5)


@chunks
def test_gradients_are_the_analytic_ones(chunk):
  hidden, unembed, targets, mask = case(1)
  weight = np.random.default_rng(2).normal(size=(B, T)).astype(np.float32)
  got = jax.jit(jax.grad(lambda h, u: jnp.sum(
    weight * token_logps.token_logps(h, u, targets, mask, chunk=chunk)),
    (0, 1)))(hidden, unembed)
  # d logp / d logits = onehot - softmax
  h, u = np.asarray(hidden, np.float64), np.asarray(unembed, np.float64)
  p = np.exp(h @ u)
  error = np.eye(V)[np.asarray(targets)] - p / p.sum(-1, keepdims=True)
  error *= (weight * np.asarray(mask))[..., None]
  want = error @ u.T, np.einsum("btd,btv->dv", h, error)
  for a, b in zip(got, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_is_not_masked_is_zero_and_gets_no_gradient():
  hidden, unembed, targets, mask = case(3)
  logps, pull = jax.vjp(
    lambda h: token_logps.token_logps(h, unembed, targets, mask, chunk=4),
    hidden)
  (grad,) = pull(jnp.ones_like(logps))
  dead = ~np.asarray(mask)
  assert dead.any()
  assert (np.asarray(logps)[dead] == 0).all()
  assert (np.asarray(grad)[dead] == 0).all()
  assert (np.asarray(logps)[~dead] < 0).all()
  assert (np.asarray(grad)[~dead] != 0).any(-1).all()


@pytest.mark.parametrize("garbage", [1e30, -1e30])
def test_garbage_where_nothing_is_masked_changes_nothing(garbage):
  hidden, unembed, targets, mask = case(4)
  spoiled = jnp.where(mask[..., None], hidden, garbage)

  @jax.jit
  def value_and_grads(hidden):
    return jax.value_and_grad(
      lambda h, u: jnp.sum(token_logps.token_logps(
        h, u, targets, mask, chunk=3)), (0, 1))(hidden, unembed)

  jax.tree.map(np.testing.assert_array_equal,
               value_and_grads(hidden), value_and_grads(spoiled))


def test_extreme_bf16_logits_stay_finite():
  hidden, unembed, targets, mask = case(5, jnp.bfloat16, scale=1e4)
  value, grads = jax.jit(jax.value_and_grad(
    lambda h, u: jnp.sum(token_logps.token_logps(
      h, u, targets, mask, chunk=4)), (0, 1)))(hidden, unembed)
  # Logits are fp32 of bf16 inputs: far finer than bf16's own 8 bits.
  want = in_float64(hidden.astype(jnp.float32), unembed.astype(jnp.float32),
                    targets, mask).sum()
  np.testing.assert_allclose(value, want, rtol=1e-5)
  assert abs(value) > 1e5
  for grad in grads:
    assert np.isfinite(np.asarray(grad, np.float32)).all()


def test_no_array_of_all_logits_exists():
  b, t, d, v, chunk = 2, 64, 8, 512, 8
  hidden, unembed = jnp.ones((b, t, d)), jnp.ones((d, v))
  targets, mask = jnp.zeros((b, t), jnp.int32), jnp.ones((b, t), bool)

  def largest(f, **kwargs):
    def loss(hidden, unembed):
      return jnp.sum(f(hidden, unembed, targets, mask, **kwargs))

    compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(
      hidden, unembed).compile()
    shapes = re.findall(r"\b(?:bf16|[fsu]\d+|pred)\[([\d,]+)\]",
                        compiled.as_text())
    return max(np.prod([int(n) for n in s.split(",")]) for s in shapes)

  assert largest(naive) >= b * t * v  # the check can see them
  assert largest(token_logps.token_logps, chunk=chunk) <= b * chunk * v
