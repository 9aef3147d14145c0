"""The product's gradients against JAX's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl.costs.flops import flops
from dlrl.models import linear


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(multiply, x, w, y):
  """The product, and the gradients of x and w where its own is y."""
  product, gradients = jax.vjp(multiply, x, w)
  return product, *gradients(y)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [(), (3,), (2, 3)])
@pytest.mark.parametrize(("d", "f"), [(4, 5), (5, 4)])
def test_gradients_are_those_of_a_plain_product(d, f, rows, dtype):
  rng = np.random.default_rng(0)
  x, w, y = (jnp.asarray(rng.normal(size=shape), dtype)
             for shape in ((*rows, d), (d, f), (*rows, f)))
  (got, *ours), (want, *plain) = (
    with_gradients(multiply, x, w, y) for multiply in (
      linear.product, jnp.matmul))
  np.testing.assert_array_equal(got, want)
  for mine, theirs in zip(ours, plain, strict=True):
    assert mine.dtype == dtype
    np.testing.assert_allclose(
      np.float32(mine), np.float32(theirs),
      rtol=1e-5 if dtype == "float32" else 1e-2, atol=1e-5)


@pytest.mark.parametrize(("d", "f"), [(4, 5), (5, 4)])
def test_the_narrower_factor_is_the_one_copied(d, f):
  x, w = jnp.ones((2, 3, d)), jnp.ones((d, f))

  def copied(multiply):
    """The width of the first factor of the product for w's gradient."""
    eqns = jax.make_jaxpr(jax.grad(
      lambda w: jnp.sum(multiply(x, w) ** 2)))(w).eqns
    *_, last = (eqn for eqn in eqns if eqn.primitive.name == "dot_general")
    return last.invars[0].aval.shape[-1]

  assert copied(linear.product) == 4
  assert copied(jnp.matmul) == f  # or ours would not be needed


def test_a_checkpoint_that_keeps_products_does_not_repeat_them():
  x, w = jnp.ones((8, 16)), jnp.ones((16, 16))

  def gradient(policy):
    def loss(w):
      layer = jax.checkpoint(
        lambda x: jnp.sin(linear.product(x, w)), policy=policy)
      return jnp.sum(layer(layer(x)))

    return flops(jax.grad(loss), w)

  policies = jax.checkpoint_policies
  kept = gradient(policies.everything_saveable)
  assert gradient(policies.dots_with_no_batch_dims_saveable) == kept
  assert gradient(policies.nothing_saveable) > kept
