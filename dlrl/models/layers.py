"""The network: layers of attention and MLP around a residual stream.

Source: the modeling code published with LLaDA (arXiv 2502.09992) and Dream
(arXiv 2508.15487): pre-norm, no causal mask, rotate-half RoPE in fp32, RMSNorm
in fp32, SwiGLU.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dlrl import config
from dlrl.models import attention
from dlrl.models import linear
from dlrl.runtime import mesh as mesh_lib

KeysValues = tuple[jax.Array, jax.Array]  # two of [b, t, g, k]
Cache = tuple[jax.Array, jax.Array]  # those of all layers: [layers, b, t, g, k]


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
    blocks: jax.Array | None = None,
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
      blocks: [b, t] int, without a cache, the blocks of columns; these do not
        attend to later ones. None: every column attends to all.

    Returns:
      Outputs [b, t, d], or [b, w, d] with `columns`; keys and values of whole
      rows, with which a later call can replace `cache`.
    """
    q, k, v = self._project(x, turn, columns)
    if cache is not None:
      k, v = (_renewed(old, new, start, before)
              for old, new in zip(cache, (k, v), strict=True))
    if blocks is None:
      y = attention.bidirectional(q, k, v, lengths, backend=self.backend)
    else:
      y = attention.block_causal(
        q, k, v, lengths, take(blocks, columns), blocks)
    return self.out(y.reshape(*y.shape[:2], -1)), (k, v)

  def noisy(
    self, x: jax.Array, turn: attention.Rotation, clean: KeysValues,
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
    y = attention.noisy(q, k, v, *clean, blocks)
    return self.out(y.reshape(*y.shape[:2], -1)), (k, v)

  def _project(
    self, x: jax.Array, turn: attention.Rotation, columns: jax.Array | None
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
    q = attention.rope(q, (take(sin, columns), take(cos, columns)))
    return q, attention.rope(k, turn), v


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
    blocks: jax.Array | None = None,
  ) -> tuple[jax.Array, KeysValues]:
    """Adds attention and MLP to `x`; arguments and results as `Attention`."""
    y, keys_values = self.attention(
      self.attention_norm(x), turn, lengths, cache, start, before,
      columns=columns, blocks=blocks)
    x = take(x, columns) + y
    return x + self.mlp(self.mlp_norm(x)), keys_values

  def noisy(
    self, x: jax.Array, turn: attention.Rotation, clean: KeysValues,
    blocks: attention.NoisyBlocks,
  ) -> tuple[jax.Array, KeysValues]:
    """Adds attention and MLP to `x`; arguments as `Attention.noisy`."""
    y, keys_values = self.attention.noisy(
      self.attention_norm(x), turn, clean, blocks)
    x = x + y
    return x + self.mlp(self.mlp_norm(x)), keys_values


class Transformer(nnx.Module):
  """Maps token ids to final hidden states; the head's kernel is `unembed`.

  Args:
    cfg: the architecture.
    remat: decides which activations of a layer are kept for its backward pass;
      None: all.
    rngs: draws random parameters.
  """

  def __init__(
    self, cfg: config.ModelConfig, remat: Callable[..., Any] | None, *,
    rngs: nnx.Rngs,
  ):
    self.embed = nnx.Embed(
      cfg.vocab_size, cfg.width, rngs=rngs,
      dtype=jnp.dtype(cfg.compute_dtype),
      param_dtype=jnp.dtype(cfg.param_dtype),
    )
    # One module whose arrays have a leading axis of layers, which scan consumes
    # and a checkpoint stores as one array per kind of parameter.
    stack: Any = nnx.vmap(
      lambda r: Layer(cfg, rngs=r), in_axes=0, out_axes=0)
    self.layers = stack(rngs.split(cfg.layers))
    self.norm = norm(cfg, cfg.width, rngs)
    if not cfg.tied:
      self.unembed = dense(cfg, cfg.width, cfg.vocab_size, rngs)
    self.remat = remat
    self.head_dim, self.rope_theta = cfg.head_dim, cfg.rope_theta
    self.block_length = cfg.block_length

  def __call__(
    self, ids: jax.Array, positions: jax.Array, lengths: jax.Array,
    cache: Cache | None = None, start: jax.Array | int = 0,
    before: jax.Array | None = None, *, keep: bool = False,
    columns: jax.Array | None = None,
  ) -> tuple[jax.Array, Cache | None]:
    """Computes final hidden states, and a cache if `keep` is set.

    Args:
      ids: [b, t] int; with a cache only the columns that are computed anew.
      positions: [b, t] int, of these columns.
      lengths: [b] int, live columns of whole rows.
      cache: keys and values of whole rows, for `start` and `before` see
        `Attention`.
      start: scalar int.
      before: [b] int or None.
      keep: whether to return keys and values.
      columns: [b, w] int, the only columns to return, without a cache; the last
        layer computes no others. None: all.

    Returns:
      Hidden states [b, t, d] or [b, w, d] in the compute dtype, and a cache or
      None.
    """
    definition, stacked = nnx.split(self.layers)
    # Outside of the scan, so that it is computed once.
    turn = attention.rotation(positions, self.head_dim, self.rope_theta)
    blocks = positions // self.block_length if self.block_length else None

    def layer(
      x: jax.Array, weights_and_cache: Any
    ) -> tuple[jax.Array, Cache | None]:
      weights, cache = weights_and_cache
      x = mesh_lib.shard_batch(x)
      x, keys_values = nnx.merge(definition, weights)(
        x, turn, lengths, cache, start, before, blocks=blocks)
      # scan stacks what it returns: without a cache to keep, that would be keys
      # and values of all layers.
      return x, keys_values if keep else None

    layer = self._rematerialised(layer)
    x = self._lookup(ids)
    if columns is None:
      x, cache = jax.lax.scan(layer, x, (stacked, cache))
      return self.norm(x), cache

    def at(i: jax.Array | int) -> Any:
      # Indexed inside the loop, as a scan does: slices of the stacks, to scan
      # all layers but the last, would be copies of the parameters.
      return jax.tree.map(lambda w: w[i], stacked)

    last = jax.tree.leaves(stacked)[0].shape[0] - 1
    x, _ = jax.lax.scan(
      lambda x, i: layer(x, (at(i), None)), x, jnp.arange(last))
    x, _ = nnx.merge(definition, at(last))(
      mesh_lib.shard_batch(x), turn, lengths, columns=columns, blocks=blocks)
    return self.norm(x), None

  def noisy(
    self, ids: jax.Array, positions: jax.Array, clean: Cache,
    blocks: attention.NoisyBlocks, *, kept: int = 0,
  ) -> tuple[jax.Array, Cache]:
    """Computes final hidden states of columns after clean ones.

    Args:
      ids: [b, w] int.
      positions: [b, w] int.
      clean: keys and values of whole clean rows.
      blocks: what the columns attend to.
      kept: how many of the first columns to return keys and values of.

    Returns:
      [b, w, d] in the compute dtype; two of [layers, b, kept, g, k].
    """
    definition, stacked = nnx.split(self.layers)
    turn = attention.rotation(positions, self.head_dim, self.rope_theta)

    def layer(
      x: jax.Array, weights_and_clean: Any
    ) -> tuple[jax.Array, KeysValues]:
      weights, clean = weights_and_clean
      x, (k, v) = nnx.merge(definition, weights).noisy(
        mesh_lib.shard_batch(x), turn, clean, blocks)
      return x, (k[:, :kept], v[:, :kept])

    x, keys_values = jax.lax.scan(
      self._rematerialised(layer), self._lookup(ids), (stacked, clean))
    return self.norm(x), keys_values

  def _rematerialised(self, layer: Callable[..., Any]) -> Callable[..., Any]:
    return layer if self.remat is None else jax.checkpoint(
      layer, policy=self.remat)

  def _lookup(self, ids: jax.Array) -> jax.Array:
    """Embeds ids [b, t] as [b, t, d]."""
    # Each device looks up its slice of the width for the rows of all devices
    # along `fsdp`, and then they exchange activations. Gathering the table
    # instead, and its gradient, would take gigabytes per device.
    ids = mesh_lib.constrain(ids, "data", None)
    x = self.embed.embedding[...][ids].astype(self.embed.dtype)
    return mesh_lib.shard_batch(mesh_lib.constrain(x, "data", None, "fsdp"))
