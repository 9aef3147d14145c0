"""One layer of the transformer: attention and MLP around a residual stream.

Source: the modeling code published with LLaDA (arXiv 2502.09992) and Dream
(arXiv 2508.15487): pre-norm, no causal mask, rotate-half RoPE in fp32, RMSNorm
in fp32, SwiGLU.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from dlrl import config
from dlrl.models import attention
from dlrl.models import linear

KeysValues = tuple[jax.Array, jax.Array]  # two of [b, t, g, k]


def dense(
  cfg: config.ModelConfig, inputs: int, outputs: int, rngs: nnx.Rngs, *,
  bias: bool = False,
) -> linear.Linear:
  """Makes a linear map in the dtypes of `cfg`."""
  return linear.Linear(
    inputs, outputs, use_bias=bias, rngs=rngs,
    dtype=jnp.dtype(cfg.compute_dtype), param_dtype=jnp.dtype(cfg.param_dtype))


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
    self.backend = cfg.attention
    self.q = dense(cfg, cfg.width, inner, rngs, bias=cfg.qkv_bias)
    self.k = dense(cfg, cfg.width, kv_inner, rngs, bias=cfg.qkv_bias)
    self.v = dense(cfg, cfg.width, kv_inner, rngs, bias=cfg.qkv_bias)
    self.out = dense(cfg, inner, cfg.width, rngs)
    self.qk_norm = cfg.qk_norm
    if cfg.qk_norm:
      self.q_norm = norm(cfg, cfg.head_dim, rngs)
      self.k_norm = norm(cfg, cfg.head_dim, rngs)

  def __call__(
    self, x: jax.Array, turn: attention.Rotation, lengths: jax.Array,
    cache: KeysValues | None = None, start: jax.Array | int = 0,
    before: jax.Array | None = None, *, columns: jax.Array | None = None,
  ) -> tuple[jax.Array, KeysValues]:
    """Attends from every column of `x` to the live columns of its row.

    Args:
      x: [b, t, d]; with a cache only the columns that are computed anew.
      turn: the rotation at the positions of `x`.
      lengths: [b] int, live columns of each row.
      cache: keys and values of whole rows; None: `x` is whole rows.
      start: the column of the cache that the first column of `x` replaces.
      before: [b] int; the first column of `x` replaces this column instead,
        and the second one is at `start`. None: there is no such column.
      columns: [b, w] int, the only columns to compute outputs of, without a
        cache; keys and values are still of all columns. None: all.

    Returns:
      Outputs [b, t, d], or [b, w, d] with `columns`; keys and values of whole
      rows, with which a later call can replace `cache`.
    """
    # The last layer's queries are those of the columns that are asked for,
    # while keys and values are still needed of all.
    asking = take(x, columns)
    q, k, v = (project(y).reshape(*y.shape[:2], -1, self.head_dim)
               for project, y in ((self.q, asking), (self.k, x), (self.v, x)))
    if self.qk_norm:
      # Per head and before the rotation, as in Qwen3.
      q, k = self.q_norm(q), self.k_norm(k)
    sin, cos = turn
    q = attention.rope(q, (take(sin, columns), take(cos, columns)))
    k = attention.rope(k, turn)
    if cache is not None:
      k, v = (_renewed(old, new, start, before)
              for old, new in zip(cache, (k, v), strict=True))
    y = attention.bidirectional(q, k, v, lengths, backend=self.backend)
    return self.out(y.reshape(*asking.shape[:2], -1)), (k, v)


def _renewed(
  cache: jax.Array, new: jax.Array, start: jax.Array | int,
  before: jax.Array | None,
) -> jax.Array:
  """Writes the columns `new` into a cache [b, t, g, k]; see `Attention`."""
  if before is not None:
    # A select, because a scatter to another column in each row is slow on TPUs.
    first, new = new[:, :1], new[:, 1:]
    there = jnp.arange(cache.shape[1])[None] == before[:, None]
    cache = jnp.where(there[:, :, None, None], first, cache)
  return jax.lax.dynamic_update_slice_in_dim(cache, new, start, 1)


class MLP(nnx.Module):
  """SwiGLU: down(silu(gate(x)) up(x))."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    self.gate = dense(cfg, cfg.width, cfg.mlp_width, rngs)
    self.up = dense(cfg, cfg.width, cfg.mlp_width, rngs)
    self.down = dense(cfg, cfg.mlp_width, cfg.width, rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [b, t, d] to [b, t, d]."""
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
  """One pre-norm residual block."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    self.attention_norm = norm(cfg, cfg.width, rngs)
    self.attention = Attention(cfg, rngs=rngs)
    self.mlp_norm = norm(cfg, cfg.width, rngs)
    self.mlp = MLP(cfg, rngs=rngs)

  def __call__(
    self, x: jax.Array, turn: attention.Rotation, lengths: jax.Array,
    cache: KeysValues | None = None, start: jax.Array | int = 0,
    before: jax.Array | None = None, *, columns: jax.Array | None = None,
  ) -> tuple[jax.Array, KeysValues]:
    """Adds attention and MLP to `x`; arguments and results as `Attention`."""
    y, keys_values = self.attention(
      self.attention_norm(x), turn, lengths, cache, start, before,
      columns=columns)
    x = take(x, columns) + y
    return x + self.mlp(self.mlp_norm(x)), keys_values
