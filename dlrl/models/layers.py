"""The network: layers of attention and MLP around a residual stream.

Source: the modeling code published with LLaDA (arXiv 2502.09992) and Dream
(arXiv 2508.15487): pre-norm, no causal mask, rotate-half RoPE in fp32, RMSNorm
in fp32, SwiGLU.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl.models import attention
from dlrl.models import xla_attention
from dlrl.models.attention_layer import Attention
from dlrl.models.attention_layer import KeysValues
from dlrl.models.attention_layer import dense
from dlrl.models.attention_layer import norm
from dlrl.models.attention_layer import take
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime.sharding import by_hand

Cache = tuple[jax.Array, jax.Array]  # those of all layers: [layers, b, t, g, k]

# The activations of a layer that are kept for its backward pass.
REMAT = {
  "none": None,  # all of them, nothing is computed twice
  # Products with weights, and attention's outputs and softmax statistics: the
  # backward pass recomputes norms, activation functions and attention weights.
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(xla_attention.KEPT)),
  "full": jax.checkpoint_policies.nothing_saveable,  # only the layer's input
}

# Mesh axes of every parameter: each path matches exactly one pattern. The first
# axis of `layers/` counts layers. Matrices split by columns (q, k, v, gate, up)
# are followed by matrices split by rows (out, down), so that `tensor` costs one
# all-reduce per attention and one per MLP.
SHARDING = {
  r"embed/embedding": P("tensor", "fsdp"),
  r"layers/attention/(q|k|v)/kernel": P(None, "fsdp", "tensor"),
  r"layers/attention/(q|k|v)/bias": P(None, "tensor"),
  r"layers/attention/(q|k)_norm/scale": P(None, None),
  r"layers/attention/out/kernel": P(None, "tensor", "fsdp"),
  r"layers/mlp/(gate|up)/kernel": P(None, "fsdp", "tensor"),
  r"layers/mlp/down/kernel": P(None, "tensor", "fsdp"),
  r"layers/(attention_norm|mlp_norm)/scale": P(None, None),
  r"norm/scale": P(None),
  r"unembed/kernel": P("fsdp", "tensor"),
}


def gathered(params: Any, dtype: str) -> Any:
  """Gathers the matrices of all layers along `fsdp`, cast to `dtype`.

  Programs that run layers many times on few tokens otherwise move all of them
  between devices every time. Adapters and quantised matrices stay split.

  Args:
    params: as `Model.hidden` takes them.
    dtype: the compute dtype, to which a layer would cast them.
  """
  def one(path: Any, leaf: Any) -> Any:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    spec = next((spec for pattern, spec in SHARDING.items()
                 if pattern.startswith("layers/") and "fsdp" in spec
                 and re.fullmatch(f"(base/)?{pattern}", name)), None)
    if spec is None:
      return leaf
    return mesh_lib.constrain(leaf.astype(dtype), *(
      None if axis == "fsdp" else axis for axis in spec))

  return jax.tree.map_with_path(one, params)


def specs(params: Any) -> Any:
  """How the mesh in use splits `params`, as `Model.hidden` takes them.

  Axes that it cannot split evenly are whole on every device, and so is what
  `fsdp` splits of adapters: the sums of their gradients are small.
  """
  sizes = jax.sharding.get_abstract_mesh().shape

  def one(path: Any, leaf: Any) -> P:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    adapter = re.fullmatch("adapter/(.*)/([ab])", name)
    if adapter:
      _, *ends = mesh_lib.keep(
        _spec(adapter[1] + "/kernel"), lambda axis: axis != "fsdp")
      axes = [None, ends[0], None] if adapter[2] == "a" else [
        None, None, ends[1]]
    else:
      axes = list(_spec(name.removeprefix("base/")))
    return P(*(None if axis is None or size % sizes.get(axis, 1) else axis
               for axis, size in zip(axes, leaf.shape, strict=True)))

  return jax.tree.map_with_path(one, params)


def _spec(name: str) -> P:
  """The row of `SHARDING` for a path, or for a part of a quantised matrix."""
  return next(spec for pattern, spec in SHARDING.items()
              if re.fullmatch(f"{pattern}(/.*)?", name))


def _all_but_gathered(prim: Any, *_: Any, **__: Any) -> bool:
  """Keeps all activations, and no weights of other devices."""
  return bool(prim.name != "all_gather")


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
    cache: KeysValues | None = None, start: jax.Array | None = None,
    before: jax.Array | None = None, *, columns: jax.Array | None = None,
    blocks: jax.Array | None = None,
  ) -> tuple[jax.Array, KeysValues]:
    """Adds attention and MLP to `x`; arguments and results as `Attention`."""
    y, keys_values = self.attention(
      self.attention_norm(x), turn, lengths, cache, start, before,
      columns=columns, blocks=blocks)
    x = take(x, columns) + y
    return x + self.mlp(self.mlp_norm(x)), keys_values

  def extend(
    self, x: jax.Array, turn: attention.Rotation, positions: jax.Array,
    lengths: jax.Array, prefix: KeysValues,
  ) -> tuple[jax.Array, KeysValues]:
    """Adds attention and MLP to `x`; as `Attention.extend`."""
    y, keys_values = self.attention.extend(
      self.attention_norm(x), turn, positions, lengths, prefix)
    x = x + y
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
    cache: Cache | None = None, start: jax.Array | None = None,
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
      start: [b] int, with a cache.
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

  def extend(
    self, ids: jax.Array, positions: jax.Array, lengths: jax.Array,
    prefix: Cache,
  ) -> Cache:
    """Computes keys and values of clean rows whose beginnings are known.

    Args:
      ids: [b, w] int, whole blocks, and padding.
      positions: [b, w] int, without gaps from the end of the row's prefix.
      lengths: [b] int, live columns of whole rows.
      prefix: keys and values [layers, g, s, ...]; b/g rows after one another
        share them. Columns from the first position of a row on are ignored.

    Returns:
      Those of whole rows in ordinary order, [layers, b, s + w, ...].
    """
    definition, stacked = nnx.split(self.layers)
    turn = attention.rotation(positions, self.head_dim, self.rope_theta)

    def layer(
      x: jax.Array, weights_and_prefix: Any
    ) -> tuple[jax.Array, KeysValues]:
      weights, prefix = weights_and_prefix
      x, keys_values = nnx.merge(definition, weights).extend(
        mesh_lib.shard_batch(x), turn, positions, lengths, prefix)
      return x, keys_values

    cache: Cache
    _, cache = jax.lax.scan(
      self._rematerialised(layer), self._lookup(ids), (stacked, prefix))
    return cache

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
    if self.remat is None and not by_hand.splits():
      return layer
    return jax.checkpoint(layer, policy=self.remat or _all_but_gathered)

  def _lookup(self, ids: jax.Array) -> jax.Array:
    """Embeds ids [b, t] as [b, t, d]."""
    return by_hand.rows_of(
      self.embed.embedding.get_value(), ids, self.embed.dtype)
