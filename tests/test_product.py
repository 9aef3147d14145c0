"""The product's gradients against JAX's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl.models import product
from dlrl.runtime.flops import flops


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [(), (3,), (2, 3)])
def test_gradients_are_those_of_a_plain_product(rows, dtype):
  keys = jax.random.split(jax.random.key(0), 3)
  x, w, y = (jax.random.normal(key, shape, dtype) for key, shape in zip(
    keys, ((*rows, 4), (4, 5), (*rows, 5)), strict=True))
  want, plain = jax.vjp(jnp.matmul, x, w)
  got, ours = jax.vjp(product.product, x, w)
  np.testing.assert_array_equal(got, want)
  for mine, theirs in zip(ours(y), plain(y), strict=True):
    assert mine.dtype == dtype
    np.testing.assert_allclose(
      np.float32(mine), np.float32(theirs),
      rtol=1e-5 if dtype == "float32" else 1e-2, atol=1e-5)


def test_no_gradient_is_transposed():
  x, w = jnp.ones((2, 3, 4)), jnp.ones((4, 5))

  def names(multiply):
    return {eqn.primitive.name for eqn in jax.make_jaxpr(jax.grad(
      lambda w: jnp.sum(multiply(x, w) ** 2)))(w).eqns}

  assert "transpose" in names(jnp.matmul)
  assert "transpose" not in names(product.product)


def test_a_checkpoint_that_keeps_products_does_not_repeat_them():
  x, w = jnp.ones((8, 16)), jnp.ones((16, 16))

  def gradient(policy):
    def loss(w):
      layer = jax.checkpoint(
        lambda x: jnp.sin(product.product(x, w)), policy=policy)
      return jnp.sum(layer(layer(x)))

    return flops(jax.grad(loss), w)

  policies = jax.checkpoint_policies
  kept = gradient(policies.everything_saveable)
  assert gradient(policies.dots_with_no_batch_dims_saveable) == kept
  assert gradient(policies.nothing_saveable) > kept
