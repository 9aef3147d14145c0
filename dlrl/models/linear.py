"""Linear maps: a matrix product with its own gradient, and the layer over it.

The layer's matrix may be quantised (`quantized`) and have a low-rank adapter
(`lora`).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dlrl import config
from dlrl.models import quantized
from dlrl.runtime.sharding import by_hand


@jax.custom_vjp
def product(x: jax.Array, w: jax.Array) -> jax.Array:
  """Multiplies x [..., d] by w [d, f]; same values and gradients as `@`.

  Only the order of one product differs. For the gradient of `w`, XLA's CPU
  backend first copies one factor with rows and columns exchanged: JAX always
  has it copy the cotangent, this function the narrower factor. A training step
  takes a sixth longer without. Forward-mode differentiation is not supported.
  """
  return jnp.matmul(x, w)


def _forward(
  x: jax.Array, w: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  # Not `product`: a remat policy that keeps products would not recognise it.
  return jnp.matmul(x, w), (x, w)


def _backward(
  residuals: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
  x, w = residuals
  rows = tuple(range(x.ndim - 1))
  x_grad = jax.lax.dot_general(cotangent, w, (((x.ndim - 1,), (1,)), ((), ())))
  over_rows = ((rows, rows), ((), ()))
  if x.shape[-1] > cotangent.shape[-1]:
    return x_grad, jax.lax.dot_general(cotangent, x, over_rows).T
  return x_grad, jax.lax.dot_general(x, cotangent, over_rows)


product.defvjp(_forward, _backward)


class Linear(nnx.Linear):
  """A linear map whose matrix may be quantised and have an adapter."""

  # Set by `lora.attach`.
  a: Any = None
  b: Any = None
  scale = 1.0

  def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]
    """Maps [..., in] to [..., out] in the compute dtype.

    An adapter is applied to `x`, never added to the matrix: W + A B of every
    layer would take the memory that adapters are meant to save.
    """
    x = x.astype(self.dtype)
    # Beneath an adapter the matrix is frozen: it needs no gradient, for which
    # `product` would keep `x` until the backward pass.
    multiply = product if self.a is None else jnp.matmul
    kernel = self.kernel.get_value()
    if isinstance(kernel, quantized.EightBits):
      y = quantized.product(x, kernel)
    else:
      kernel = (quantized.dense(by_hand.whole(kernel))
                if quantized.is_quantized(kernel) else
                by_hand.whole(kernel, self.dtype))
      y = multiply(x, kernel.astype(self.dtype))
    if self.bias is not None:
      bias = self.bias.get_value().astype(self.dtype)
      y += bias.reshape((1,) * (y.ndim - 1) + (-1,))
    if self.a is not None:
      a, b = (part.get_value().astype(self.dtype) for part in (self.a, self.b))
      y += self.scale * ((x @ a) @ b)
    return y


def dense(
  cfg: config.ModelConfig, inputs: int, outputs: int, rngs: nnx.Rngs, *,
  bias: bool = False,
) -> Linear:
  """Makes a linear map in the dtypes of `cfg`."""
  return Linear(
    inputs, outputs, use_bias=bias, rngs=rngs,
    dtype=jnp.dtype(cfg.compute_dtype), param_dtype=jnp.dtype(cfg.param_dtype))
