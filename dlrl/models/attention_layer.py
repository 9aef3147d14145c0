"""Multi-head attention with its projections and RoPE, for each kind of row.

Source: the modeling code published with LLaDA (arXiv 2502.09992), Dream (arXiv
2508.15487) and SDAR (arXiv 2510.06303).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from dlrl import config
from dlrl.models import attention
from dlrl.models import linear

KeysValues = tuple[jax.Array, jax.Array]  # two of [b, t, g, k]
Rotation = tuple[jax.Array, jax.Array]  # sines, cosines: [b, t, 1, r/2] fp32


def rotation(positions: jax.Array, features: int, theta: float) -> Rotation:
  """Computes the sines and cosines by which `rope` rotates.

  Call it once for all layers: inside a layer, XLA fuses it into the rotation
  and computes it again for every head.

  Args:
    positions: [b, t] int.
    features: r, how many features of a head are rotated, even.
    theta: base of the frequencies.

  Returns:
    Sines and cosines, [b, t, 1, r/2] fp32 each.
  """
  half = features // 2
  # fp32 throughout: bf16 cannot tell positions beyond 256 apart.
  frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = (positions[:, :, None, None].astype(jnp.float32)
           * frequency[None, None, None])
  return jnp.sin(angle), jnp.cos(angle)


def rope(x: jax.Array, turn: Rotation) -> jax.Array:
  """Rotates [b, t, h, k] by its positions, in fp32, in the dtype of `x`.

  Feature i is paired with feature i + r/2 ("rotate half"), as in the published
  code. Pairs of neighbours would need permuted checkpoints. Features from r on
  stay as they are.
  """
  sin, cos = turn
  rotated = 2 * sin.shape[-1]
  a, b = jnp.split(x[..., :rotated].astype(jnp.float32), 2, axis=-1)
  y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(
    x.dtype)
  if rotated == x.shape[-1]:
    return y
  return jnp.concatenate([y, x[..., rotated:]], -1)


def norm(cfg: config.ModelConfig, width: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
  """Makes an RMSNorm in the dtypes of `cfg`; its statistics are fp32."""
  return nnx.RMSNorm(
    width, epsilon=cfg.norm_eps, rngs=rngs,
    dtype=jnp.dtype(cfg.compute_dtype), param_dtype=jnp.dtype(cfg.param_dtype))


def take(x: jax.Array, columns: jax.Array | None) -> jax.Array:
  """Selects columns [b, w] of x [b, t, ...], row by row; None: all of them."""
  if columns is None:
    return x
  return jnp.take_along_axis(
    x, columns.reshape(*columns.shape, *(1,) * (x.ndim - 2)), 1)


class Attention(nnx.Module):
  """Multi-head attention; heads share keys and values if kv_heads < heads."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    inner, kv_inner = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    self.head_dim = cfg.head_dim
    self.block_length = cfg.block_length
    self.backend = cfg.attention
    self.q = linear.dense(cfg, cfg.width, inner, rngs, bias=cfg.qkv_bias)
    self.k = linear.dense(cfg, cfg.width, kv_inner, rngs, bias=cfg.qkv_bias)
    self.v = linear.dense(cfg, cfg.width, kv_inner, rngs, bias=cfg.qkv_bias)
    self.out = linear.dense(cfg, inner, cfg.width, rngs)
    self.qk_norm = cfg.qk_norm
    if cfg.qk_norm:
      self.q_norm = norm(cfg, cfg.head_dim, rngs)
      self.k_norm = norm(cfg, cfg.head_dim, rngs)

  def __call__(
    self, x: jax.Array, turn: Rotation, lengths: jax.Array,
    cache: KeysValues | None = None, start: jax.Array | None = None,
    before: jax.Array | None = None, *, columns: jax.Array | None = None,
    blocks: jax.Array | None = None,
  ) -> tuple[jax.Array, KeysValues]:
    """Attends from every column of `x` to the live columns of its row.

    Args:
      x: [b, t, d]; with a cache only the columns that are computed anew.
      turn: the rotation at the positions of `x`.
      lengths: [b] int, live columns of each row.
      cache: keys and values of whole rows; None: `x` is whole rows.
      start: [b] int, with a cache: the column of it that the first column of
        `x` replaces.
      before: [b] int; the first column of `x` replaces this column instead,
        and the second one is at `start`. None: there is no such column.
      columns: [b, w] int, the only columns to compute outputs of, without a
        cache; keys and values are still of all columns. None: all.
      blocks: [b, t] int, without a cache, the blocks of columns; these do not
        attend to later ones. None: every column attends to all.

    Returns:
      Outputs [b, t, d], or [b, w, d] with `columns`; keys and values of whole
      rows, with which a later call can replace `cache`.
    """
    q, k, v = self._project(x, turn, columns)
    if cache is not None:
      assert start is not None
      k, v = (_renewed(old, new, start, before)
              for old, new in zip(cache, (k, v), strict=True))
    if blocks is None:
      y = attention.bidirectional(q, k, v, lengths, backend=self.backend)
    else:
      y = attention.block_causal(
        q, k, v, lengths, take(blocks, columns), blocks)
    return self.out(y.reshape(*y.shape[:2], -1)), (k, v)

  def extend(
    self, x: jax.Array, turn: Rotation, positions: jax.Array,
    lengths: jax.Array, prefix: KeysValues,
  ) -> tuple[jax.Array, KeysValues]:
    """Attends from clean blocks to themselves and to all before them.

    Args:
      x: [b, w, d].
      turn: the rotation at the positions of `x`.
      positions: [b, w] int, without gaps from a multiple of the block length.
      lengths: [b] int, live columns of each row.
      prefix: keys and values [g, s, ...] before those of `x`; b/g rows after
        one another share them.

    Returns:
      Outputs [b, w, d]; keys and values of the rows, [b, s + w, ...].
    """
    q, k, v = self._project(x, turn, None)
    k, v = (_appended(old, new, positions[:, 0])
            for old, new in zip(prefix, (k, v), strict=True))
    y = attention.clean(
      q, k, v, lengths, positions[:, 0], block_length=self.block_length,
      backend=self.backend)
    return self.out(y.reshape(*y.shape[:2], -1)), (k, v)

  def noisy(
    self, x: jax.Array, turn: Rotation, clean: KeysValues,
    blocks: attention.NoisyBlocks,
  ) -> tuple[jax.Array, KeysValues]:
    """Attends from noisy blocks to themselves and to clean ones before them.

    Args:
      x: [b, w, d].
      turn: the rotation at the positions of `x`.
      clean: keys and values of whole clean rows.
      blocks: see `attention.noisy`.

    Returns:
      [b, w, d]; keys and values of `x`.
    """
    q, k, v = self._project(x, turn, None)
    y = attention.noisy(q, k, v, *clean, blocks, backend=self.backend)
    return self.out(y.reshape(*y.shape[:2], -1)), (k, v)

  def _project(
    self, x: jax.Array, turn: Rotation, columns: jax.Array | None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Computes queries of some columns, and keys and values of all."""
    # The last layer's queries are those of the columns that are asked for,
    # while keys and values are still needed of all.
    asking = take(x, columns)
    q, k, v = (project(y).reshape(*y.shape[:2], -1, self.head_dim)
               for project, y in ((self.q, asking), (self.k, x), (self.v, x)))
    if self.qk_norm:
      # Per head and before the rotation, as in Qwen3.
      q, k = self.q_norm(q), self.k_norm(k)
    sin, cos = turn
    q = rope(q, (take(sin, columns), take(cos, columns)))
    return q, rope(k, turn), v


def _renewed(
  cache: jax.Array, new: jax.Array, start: jax.Array,
  before: jax.Array | None,
) -> jax.Array:
  """Writes the columns `new` into a cache [b, t, g, k]; see `Attention`."""
  if before is not None:
    # A select, because a scatter to another column in each row is slow on TPUs.
    first, new = new[:, :1], new[:, 1:]
    there = jnp.arange(cache.shape[1])[None] == before[:, None]
    cache = jnp.where(there[:, :, None, None], first, cache)
  return _written(cache, new, start)


def _appended(
  prefix: jax.Array, new: jax.Array, start: jax.Array
) -> jax.Array:
  """Writes `new` [b, w, g, k] behind a prefix, at the column of each row."""
  b, w = new.shape[:2]
  rows = jnp.repeat(prefix, b // prefix.shape[0], 0)
  rows = jnp.pad(rows, ((0, 0), (0, w), (0, 0), (0, 0)))
  return _written(rows, new, start)


def _written(
  rows: jax.Array, new: jax.Array, start: jax.Array
) -> jax.Array:
  """Writes `new` [b, w, g, k] into rows [b, t, g, k], from columns [b] on."""
  return jax.vmap(lambda row, x, at: jax.lax.dynamic_update_slice_in_dim(
    row, x, at, 0))(rows, new, start)
