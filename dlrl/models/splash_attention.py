"""Bidirectional attention by the TPU's splash kernel, forward and backward.

The kernel is JAX's (`jax.experimental.pallas.ops.tpu.splash_attention`). It
works on blocks of queries and keys. Instead of a mask it gets segment numbers:
padding is a segment of its own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernel_lib,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as mask_lib,
)

from dlrl.models.xla_attention import KEPT

LANES = 128  # rows are padded to a multiple of it; every block is a multiple
BLOCKS = (512, 384, 256, 128)  # larger blocks first: they are faster


def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, lengths: jax.Array,
  segments: jax.Array | None, *, interpret: bool = False,
) -> jax.Array:
  """Computes `attention.bidirectional` on the arrays of one device.

  Args:
    q: [b, w, h, k], k a multiple of 128.
    k: [b, t, g, k]; g divides h.
    v: [b, t, g, k].
    lengths: [b] int.
    segments: [b, t] int, not negative, only if w = t; None: not packed.
    interpret: emulates the kernel on any platform, slowly, for tests.

  Returns:
    [b, w, h, k].
  """
  live = jnp.arange(k.shape[1])[None] < lengths[:, None]
  if segments is None:
    q_ids, k_ids = jnp.zeros(q.shape[:2], jnp.int32), jnp.where(live, 0, -1)
  else:
    q_ids, k_ids = segments, jnp.where(live, segments, -1)
  # Only keys of padding are set apart: outputs of its queries are not read.
  ids = kernel_lib.SegmentIds(_fill(q_ids, 0), _fill(k_ids, -1))
  # The kernel does not scale its scores.
  q, k, v = (_fill(x, 0).swapaxes(1, 2) for x in (
    q * q.shape[-1] ** -0.5, k, v))
  kernel = _kernel(q.shape[1], q.shape[2], k.shape[2], interpret)
  out = jax.vmap(kernel)(q, k, v, ids)
  return out.swapaxes(1, 2)[:, : q_ids.shape[1]]


def _kernel(
  heads: int, queries: int, keys: int, interpret: bool
) -> Callable[..., jax.Array]:
  a, b = (next(x for x in BLOCKS if n % x == 0) for n in (queries, keys))
  kernel: Callable[..., jax.Array] = kernel_lib.make_splash_mha(
    mask=mask_lib.MultiHeadMask([mask_lib.FullMask((queries, keys))] * heads),
    block_sizes=kernel_lib.BlockSizes(
      block_q=a, block_kv=b, block_kv_compute=b, block_q_dkv=a, block_kv_dkv=b,
      block_kv_dkv_compute=b, block_q_dq=a, block_kv_dq=b),
    head_shards=1, q_seq_shards=1, interpret=interpret,
    residual_checkpoint_name=KEPT)
  return kernel


def _fill(x: jax.Array, value: int) -> jax.Array:
  """Pads axis 1 to a multiple of `LANES`."""
  width = [(0, 0)] * x.ndim
  width[1] = (0, -x.shape[1] % LANES)
  return jnp.pad(x, width, constant_values=value)
