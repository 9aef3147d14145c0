"""A matrix product with a gradient of its own."""

import jax
import jax.numpy as jnp


@jax.custom_vjp
def product(x: jax.Array, w: jax.Array) -> jax.Array:
  """x [..., d] by w [d, f].

  Its gradients are JAX's but for the order of a product: JAX's own for `w` is
  transposed in the end, for which XLA's CPU backend first copies the cotangent
  with rows and columns exchanged. That is a fifth of a training step there.
  There is no forward-mode gradient.
  """
  return jnp.matmul(x, w)


def _forward(x, w):
  # Not `product`: a checkpoint that keeps products would not know it as one.
  return jnp.matmul(x, w), (x, w)


def _backward(residuals, cotangent):
  x, w = residuals
  rows = tuple(range(x.ndim - 1))
  return (jax.lax.dot_general(cotangent, w, (((x.ndim - 1,), (1,)), ((), ()))),
          jax.lax.dot_general(x, cotangent, ((rows, rows), ((), ()))))


product.defvjp(_forward, _backward)
