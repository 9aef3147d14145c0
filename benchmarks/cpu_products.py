"""The matrix products of an update, alone, for `benchmarks.torch_reference`.

Nothing can compute an update faster than its products. Each is compiled by
itself and repeated into the same memory.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from dlrl import config

Product = tuple[int, int, int, int]  # rows of a batch, and m, k, n of a product


def of_update(
  cfg: config.ModelConfig, rows: int, length: int, predicted: int
) -> dict[Product, int]:
  """Counts the products of an update, without recomputation.

  Args:
    cfg: the model, with as many key heads as query heads.
    rows: of a batch.
    length: tokens of a row.
    predicted: positions of all rows whose logits are needed.
  """
  tokens, inner = rows * length, cfg.heads * cfg.head_dim
  found: dict[Product, int] = {}

  def add(count: int, batch: int, m: int, k: int, n: int) -> None:
    # The product, and the gradients of both of its factors.
    for sizes in ((m, k, n), (m, n, k), (k, m, n)):
      key = (batch, *sizes)
      found[key] = found.get(key, 0) + count

  layers = cfg.layers
  add(4 * layers, 1, tokens, cfg.width, inner)
  add(2 * layers, 1, tokens, cfg.width, cfg.mlp_width)
  add(layers, 1, tokens, cfg.mlp_width, cfg.width)
  add(layers, rows * cfg.heads, length, cfg.head_dim, length)
  add(layers, rows * cfg.heads, length, length, cfg.head_dim)
  add(1, 1, predicted, cfg.width, cfg.vocab_size)
  return found


def flops(products: dict[Product, int]) -> int:
  """A multiply-add is two FLOPs."""
  return sum(2 * b * m * k * n * count
             for (b, m, k, n), count in products.items())


def seconds(products: dict[Product, int], repeats: int = 5) -> float:
  """Seconds of all of them, one after the other; medians of `repeats`."""
  return sum(count * _seconds(product, repeats)
             for product, count in products.items())


def _seconds(product: Product, repeats: int) -> float:
  b, m, k, n = product
  times = max(1, int(2e9 / (2 * b * m * k * n)))
  a, c = (jax.random.normal(jax.random.key(0), shape)
          for shape in ((b, m, k), (b, k, n)))

  @jax.jit
  def run(a: jax.Array, c: jax.Array) -> jax.Array:
    def body(i: jax.Array, out: jax.Array) -> jax.Array:
      # Or XLA would see that all rounds compute the same.
      now, _ = jax.lax.optimization_barrier((a, i))
      return now @ c
    return jax.lax.fori_loop(0, times, body, jnp.zeros((b, m, n)))

  jax.block_until_ready(run(a, c))
  took = []
  for _ in range(repeats):
    start = time.monotonic()
    jax.block_until_ready(run(a, c))
    took.append((time.monotonic() - start) / times)
  return float(np.median(took))
