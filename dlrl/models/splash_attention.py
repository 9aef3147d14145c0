"""Attention by the TPU's splash kernel, forward and backward.

The kernel is JAX's (`jax.experimental.pallas.ops.tpu.splash_attention`). It
works on tiles of queries and keys. Instead of an array of masks it gets segment
numbers, padding being a segment of its own, and a function of a query's number
and a key's column. The number is any integer, one per query: here, it says
which columns the query sees.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_kernel as kernel_lib,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
  splash_attention_mask as mask_lib,
)

from dlrl.models.xla_attention import KEPT

LANES = 128  # rows are padded to a multiple of it; every block is a multiple
BLOCKS = (512, 384, 256, 128)  # tiles; larger ones first: they are faster

# Maps numbers of queries and columns of keys, arrays of NumPy or JAX, to bools:
# whether the one sees the other.
Sees = Callable[[Any, Any], Any]


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
  full = mask_lib.FullMask((_filled(q.shape[1]), _filled(k.shape[1])))
  return _run(_kernel(full, q.shape[2], interpret), q, k, v, ids)


def attend_clean(
  q: jax.Array, k: jax.Array, v: jax.Array, ends: jax.Array, *,
  block_length: int, interpret: bool = False,
) -> jax.Array:
  """Computes `attention.clean` on the arrays of one device.

  Tiles that no query can see are skipped: half of them in long rows.

  Args:
    q: [b, t, h, k], k a multiple of 128.
    k: [b, s, g, k]; g divides h.
    v: [b, s, g, k].
    ends: [b, t] int, at least 1; a query sees the columns before its own end.
    block_length: tokens per block.
    interpret: as `attend`.

  Returns:
    [b, t, h, k].
  """
  t, s = q.shape[1], k.shape[1]
  # These numbers decide which tiles are skipped: of two neighbours, one starts
  # as early and one as late in its row as it can.
  column = np.arange(_filled(t), dtype=np.int32)
  column += np.where(column % 2, s - t, 0)
  most = (column // block_length + 1) * block_length
  mask = _Mask((len(column), _filled(s)), most, _before)
  return _run(_kernel(mask, q.shape[2], interpret), q, k, v, None,
              _fill(ends.astype(jnp.int32), 0))


def attend_noisy(
  q: jax.Array, k: jax.Array, v: jax.Array, clean_k: jax.Array,
  clean_v: jax.Array, earlier: jax.Array, live: jax.Array, *,
  interpret: bool = False,
) -> jax.Array:
  """Computes `attention.noisy` on the arrays of one device.

  One call on keys [clean | noisy]. Tiles of noisy keys are skipped where their
  blocks are others. Tiles of clean keys are not: what is seen of them differs
  from row to row, and which tiles are skipped cannot.

  Args:
    q: [b, w, h, k], k a multiple of 128; m blocks.
    k: [b, w, g, k]; g divides h.
    v: [b, w, g, k].
    clean_k: [b, s, g, k].
    clean_v: [b, s, g, k].
    earlier: [b, m] int, the clean columns before a block.
    live: [b, w] bool, noisy columns that are not padding.
    interpret: as `attend`.

  Returns:
    [b, w, h, k].

  Raises:
    ValueError: the number of a query exceeds 32 bits: blocks are too many.
  """
  w, m, start = q.shape[1], earlier.shape[1], _filled(clean_k.shape[1])
  sees = _NoisySees(start, w // m)
  if m << sees.bits > 2**31:
    raise ValueError(
      f"splash: {m} noisy blocks after {clean_k.shape[1]} clean columns are "
      "too many; use longer blocks, shorter rows or attention 'xla'")
  k, v = (jnp.concatenate([_fill(clean, 0), _fill(noisy, 0)], 1)
          for clean, noisy in ((clean_k, k), (clean_v, v)))
  ids = kernel_lib.SegmentIds(
    jnp.zeros((len(q), _filled(w)), jnp.int32),
    jnp.concatenate([jnp.zeros((len(q), start), jnp.int32),
                     _fill(jnp.where(live, 0, -1), -1)], 1))
  # These numbers decide which tiles are skipped: of two neighbours, one sees
  # all clean columns and one sees none.
  column = np.arange(_filled(w), dtype=np.int32)
  own = np.minimum(column, w - 1) // (w // m)
  mask = _Mask((len(column), k.shape[1]),
               sees.number(own, np.where(column % 2, start, 0)), sees)
  numbers = sees.number(own[None, :w], jnp.repeat(earlier, w // m, 1))
  return _run(_kernel(mask, q.shape[2], interpret), q, k, v, ids,
              _fill(numbers.astype(jnp.int32), 0))


def _before(number: Any, column: Any) -> Any:
  return column < number


@dataclasses.dataclass(frozen=True)
class _NoisySees:
  """Tells which keys [clean | noisy] a noisy query sees, `start` clean ones.

  It sees the clean columns before one of them, and the columns of a noisy
  block. A query's number consists of the two.
  """

  start: int
  block_length: int

  @property
  def bits(self) -> int:
    return self.start.bit_length()

  def number(self, own: Any, earlier: Any) -> Any:
    return own << self.bits | earlier

  def __call__(self, number: Any, column: Any) -> Any:
    # The product is smaller than a query's number, which is an int32.
    own = self.start + (number >> self.bits) * self.block_length
    return (column < (number & (1 << self.bits) - 1)) | (
      (column >= own) & (column < own + self.block_length))


class _Mask(mask_lib.Mask):
  """A mask that the kernel computes; splash reads these attributes."""

  def __init__(
    self, shape: tuple[int, int], q_sequence: np.ndarray, mask_function: Sees):
    self._shape = shape
    self.q_sequence = q_sequence
    self.mask_function = mask_function

  @property
  def shape(self) -> tuple[int, ...]:
    return self._shape

  def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
    rows, columns = index
    return np.asarray(self.mask_function(
      self.q_sequence[rows, None], np.arange(self.shape[1])[None, columns]))


def _run(
  kernel: kernel_lib.SplashAttentionKernel, q: jax.Array, k: jax.Array,
  v: jax.Array, ids: kernel_lib.SegmentIds | None,
  numbers: jax.Array | None = None,
) -> jax.Array:
  """Runs a kernel on rows, with each row's own numbers of queries if given."""
  w = q.shape[1]
  # The kernel does not scale its scores.
  q, k, v = (_fill(x, 0).swapaxes(1, 2) for x in (
    q * q.shape[-1] ** -0.5, k, v))
  infos, static = kernel.tree_flatten()

  def row(numbers: jax.Array | None, *args: Any) -> Any:
    if numbers is None:
      return kernel(*args)
    return kernel_lib.SplashAttentionKernel(
      *(x._replace(q_sequence=numbers) for x in infos), **static)(*args)

  out: jax.Array = jax.vmap(row)(numbers, q, k, v, ids)
  return out.swapaxes(1, 2)[:, :w]


def _kernel(
  mask: mask_lib.Mask, heads: int, interpret: bool
) -> kernel_lib.SplashAttentionKernel:
  a, b = (next(x for x in BLOCKS if n % x == 0) for n in mask.shape)
  kernel: kernel_lib.SplashAttentionKernel = kernel_lib.make_splash_mha(
    mask=mask_lib.MultiHeadMask([mask] * heads),
    block_sizes=kernel_lib.BlockSizes(
      block_q=a, block_kv=b, block_kv_compute=b, block_q_dkv=a, block_kv_dkv=b,
      block_kv_dkv_compute=b, block_q_dq=a, block_kv_dq=b),
    head_shards=1, q_seq_shards=1, interpret=interpret,
    residual_checkpoint_name=KEPT)
  return kernel


def _filled(n: int) -> int:
  return n + -n % LANES


def _fill(x: jax.Array, value: int) -> jax.Array:
  """Pads axis 1 to a multiple of `LANES`."""
  width = [(0, 0)] * x.ndim
  width[1] = (0, -x.shape[1] % LANES)
  return jnp.pad(x, width, constant_values=value)
