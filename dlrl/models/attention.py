"""Bidirectional attention over rows whose padding is at the end, and RoPE."""

import jax
import jax.numpy as jnp


def rope(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
  """Rotary embedding, rotate-half layout, computed in fp32.

  Args:
    x: [b, t, h, k] queries or keys, k even.
    positions: [b, t] int.
    theta: base of the frequencies.
  """
  half = x.shape[-1] // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = (positions[:, :, None, None].astype(jnp.float32)
           * frequency[None, None, None])
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(
    x.dtype)


def bidirectional(q, k, v, lengths: jax.Array) -> jax.Array:
  """Attention of every position to the first `lengths` positions of its row.

  Lengths instead of a mask: fused kernels are fast with lengths and slow, or
  wrong, with dense masks. Scores and softmax are fp32.

  Args:
    q: [b, t, h, k].
    k: [b, t, g, k]; g divides h.
    v: [b, t, g, k].
    lengths: [b] int, at least 1.

  Returns:
    [b, t, h, k]; rows of padding hold finite garbage.
  """
  return jax.nn.dot_product_attention(q, k, v, key_value_seq_lengths=lengths)
