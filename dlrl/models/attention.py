"""Bidirectional attention over rows whose padding is at the end, and RoPE."""

import jax
import jax.numpy as jnp


def rotation(
  positions: jax.Array, head_dim: int, theta: float
) -> tuple[jax.Array, jax.Array]:
  """What `rope` turns by: sines and cosines, [b, t, 1, k/2] fp32 each.

  Once for all layers: as part of a layer they would be computed per head.

  Args:
    positions: [b, t] int.
    head_dim: k, even.
    theta: base of the frequencies.
  """
  half = head_dim // 2
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = (positions[:, :, None, None].astype(jnp.float32)
           * frequency[None, None, None])
  return jnp.sin(angle), jnp.cos(angle)


def rope(x: jax.Array, turn: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotary embedding of [b, t, h, k], rotate-half layout, computed in fp32."""
  sin, cos = turn
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
  seen = jnp.arange(k.shape[1])[None] < lengths[:, None]
  return plain(q, k, v, seen[:, None])


def plain(q, k, v, seen: jax.Array) -> jax.Array:
  """`bidirectional`, of the columns that are `seen` [b, t or 1, s].

  Unlike `jax.nn.dot_product_attention`, it puts the heads before the columns
  and divides by the softmax's sum last, which is less to keep for the backward
  pass; on CPUs it is faster by a third.
  """
  b, t, h, width = q.shape
  g = k.shape[2]
  q = q.reshape(b, t, g, h // g, width).transpose(0, 2, 3, 1, 4)
  k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
  scores = jnp.einsum(
    "bgrtk,bgsk->bgrts", q, k, preferred_element_type=jnp.float32)
  scores = jnp.where(seen[:, None, None], scores * width**-0.5, _UNSEEN)
  most = jax.lax.stop_gradient(jnp.max(scores, -1, keepdims=True))
  weights = jnp.exp(scores - most)
  out = jnp.einsum("bgrts,bgsk->bgrtk", weights.astype(v.dtype), v,
                   preferred_element_type=jnp.float32)
  out = out / jnp.sum(weights, -1, keepdims=True)
  return out.transpose(0, 3, 1, 2, 4).reshape(b, t, h, width).astype(v.dtype)


_UNSEEN = -1e30  # finite: a row that sees nothing has no NaN
