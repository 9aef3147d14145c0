"""Sums over draws and their gradients, one draw at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl.diffusion import montecarlo


def term(params, j):
  """A term that is linear neither in the parameters nor in j."""
  x = jnp.sin(params["w"] * (j + 1)) + params["b"]["c"] ** 2
  loss = jnp.sum(jnp.exp(-x)) / (j + 1)
  return loss, {"x": x, "count": j}


def params(seed=0):
  rng = np.random.default_rng(seed)
  return {"w": jnp.asarray(rng.normal(size=5), jnp.float32),
          "b": {"c": jnp.float32(rng.normal())}}


@pytest.mark.parametrize("n", [1, 2, 7])
def test_value_and_gradient_are_those_of_the_plain_sum(n):
  got, grads = jax.jit(
    lambda p: montecarlo.separable_value_and_grad(term, p, n))(params())
  value, _ = got
  want, want_grads = jax.value_and_grad(
    lambda p: sum(term(p, jnp.int32(j))[0] for j in range(n)))(params())
  np.testing.assert_allclose(value, want, rtol=1e-6)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    grads, want_grads)


def test_extras_are_summed_whatever_their_shape():
  (_, extras), _ = montecarlo.separable_value_and_grad(term, params(), 6)
  each = [term(params(), jnp.int32(j))[1] for j in range(6)]
  np.testing.assert_allclose(
    extras["x"], sum(e["x"] for e in each), rtol=1e-6)
  assert extras["count"] == 0 + 1 + 2 + 3 + 4 + 5


def test_gradients_of_bf16_parameters_add_up_in_fp32():
  # A bf16 accumulator would stop at 256: there, 256 + 1 = 256.
  n = 400
  p = {"w": jnp.ones(3, jnp.bfloat16)}
  (value, extra), grads = montecarlo.separable_value_and_grad(
    lambda p, j: (jnp.sum(p["w"]), jnp.ones((), jnp.bfloat16)), p, n)
  for got, want in ((value, 3 * n), (extra, n), (grads["w"], [n] * 3)):
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, want)


def test_only_one_draw_exists_at_a_time():
  n, size = 50, 64 * 64
  w = jnp.ones((64, 64))

  def one(w, j):
    return jnp.sum(jnp.tanh(jnp.tanh(w * j) @ w)), None

  def temporaries(f):
    return jax.jit(f).lower(w).compile().memory_analysis().temp_size_in_bytes

  def stacked(w):
    return jax.grad(lambda w: jax.vmap(one, (None, 0))(
      w, jnp.arange(n, dtype=jnp.float32))[0].sum())(w)

  def scanned(w):
    return montecarlo.separable_value_and_grad(
      lambda w, j: one(w, j.astype(jnp.float32)), w, n)

  assert temporaries(stacked) >= n * size * 4  # the measure can see it
  assert temporaries(scanned) <= 10 * size * 4


@pytest.mark.parametrize("value_and_grad", [
  lambda p, **more: montecarlo.separable_value_and_grad(term, p, 3, **more),
  lambda p, **more: montecarlo.joint_value_and_grad(
    lambda p, j: term(p, j)[0], lambda mean: (jnp.exp(0.1 * mean), None), p, 3,
    **more)], ids=["separable", "joint"])
def test_gradients_are_added_to_what_is_given(value_and_grad):
  p, before = params(), params(seed=1)
  value, grads = value_and_grad(p)
  again, total = value_and_grad(p, onto=before)
  jax.tree.map(np.testing.assert_array_equal, again, value)
  jax.tree.map(
    lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-5, atol=1e-6),
    total, before, grads)


def test_accumulators_are_zero_and_at_least_fp32():
  shapes = {"a": jax.ShapeDtypeStruct((2,), jnp.bfloat16),
            "b": jax.ShapeDtypeStruct((), jnp.int32),
            "c": jax.ShapeDtypeStruct((1, 3), jnp.float32)}
  for name, zero in montecarlo.zeros(shapes).items():
    assert zero.shape == shapes[name].shape
    assert zero.dtype == jnp.float32
    assert not zero.any()
