"""The network: layers of attention and MLP around a residual stream.

Source: the modeling code published with LLaDA (arXiv 2502.09992) and Dream
(arXiv 2508.15487): pre-norm, no causal mask, rotate-half RoPE in fp32, RMSNorm
in fp32, SwiGLU; and with LLaDA2.0 for the order of layers with experts.
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
from dlrl.models import linear
from dlrl.models import xla_attention
from dlrl.models.attention_layer import Attention
from dlrl.models.attention_layer import KeysValues
from dlrl.models.attention_layer import Rotation
from dlrl.models.attention_layer import norm
from dlrl.models.attention_layer import rotation
from dlrl.models.attention_layer import take
from dlrl.models.mlp.experts import ExpertLoad
from dlrl.models.mlp.experts import Mixture
from dlrl.models.mlp.swiglu import MLP
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime.sharding import by_hand

# Those of all layers: keys and values [layers, b, t, g, k] of the layers with
# MLPs if there are experts in others, then of these.
Cache = tuple[jax.Array, ...]

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
  r"(dense_)?layers/attention/(q|k|v)/kernel": P(None, "fsdp", "tensor"),
  r"(dense_)?layers/attention/(q|k|v)/bias": P(None, "tensor"),
  r"(dense_)?layers/attention/(q|k)_norm/scale": P(None, None),
  r"(dense_)?layers/attention/out/kernel": P(None, "tensor", "fsdp"),
  r"(dense_)?layers/mlp/(shared/)?(gate|up)/kernel": P(None, "fsdp", "tensor"),
  r"(dense_)?layers/mlp/(shared/)?down/kernel": P(None, "tensor", "fsdp"),
  r"layers/mlp/router/kernel": P(None, "fsdp", None),
  r"layers/mlp/router/bias": P(None, None),
  r"layers/mlp/experts/(gate|up)/kernel": P(None, "expert", "fsdp", "tensor"),
  r"layers/mlp/experts/down/kernel": P(None, "expert", "tensor", "fsdp"),
  r"(dense_)?layers/(attention_norm|mlp_norm)/scale": P(None, None),
  r"norm/scale": P(None),
  r"unembed/kernel": P("fsdp", "tensor"),
}


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
      *stack, inputs, outputs = mesh_lib.keep(
        _spec(adapter[1] + "/kernel"), lambda axis: axis != "fsdp")
      axes = ([*stack, inputs, None] if adapter[2] == "a"
              else [*stack, None, outputs])
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


class Layer(nnx.Module):
  """One pre-norm residual block; `mixture` says whether it has experts."""

  def __init__(
    self, cfg: config.ModelConfig, mixture: bool, *, rngs: nnx.Rngs
  ):
    self.attention_norm = norm(cfg, cfg.width, rngs)
    self.attention = Attention(cfg, rngs=rngs)
    self.mlp_norm = norm(cfg, cfg.width, rngs)
    self.mlp: Any = (Mixture(cfg, rngs=rngs) if mixture
                     else MLP(cfg, cfg.mlp_width, rngs=rngs))

  def __call__(
    self, x: jax.Array, turn: Rotation, lengths: jax.Array,
    cache: KeysValues | None = None, start: jax.Array | None = None,
    before: jax.Array | None = None, *, columns: jax.Array | None = None,
    blocks: jax.Array | None = None,
  ) -> tuple[jax.Array, KeysValues]:
    """Adds attention and MLP to `x`; arguments and results as `Attention`."""
    y, keys_values = self.attention(
      self.attention_norm(x), turn, lengths, cache, start, before,
      columns=columns, blocks=blocks)
    # With a cache, `x` is columns of the canvas, which is not padded.
    live = None if cache is not None else take(
      jnp.arange(x.shape[1])[None] < lengths[:, None], columns)
    return self._with_mlp(take(x, columns) + y, live), keys_values

  def extend(
    self, x: jax.Array, turn: Rotation, positions: jax.Array,
    lengths: jax.Array, prefix: KeysValues,
  ) -> tuple[jax.Array, KeysValues]:
    """Adds attention and MLP to `x`; as `Attention.extend`."""
    y, keys_values = self.attention.extend(
      self.attention_norm(x), turn, positions, lengths, prefix)
    return self._with_mlp(x + y, positions < lengths[:, None]), keys_values

  def noisy(
    self, x: jax.Array, turn: Rotation, clean: KeysValues,
    blocks: attention.NoisyBlocks,
  ) -> tuple[jax.Array, KeysValues]:
    """Adds attention and MLP to `x`; arguments as `Attention.noisy`."""
    y, keys_values = self.attention.noisy(
      self.attention_norm(x), turn, clean, blocks)
    # Every column that exists is attended to, by itself if by no other.
    live = jnp.any(blocks.live, 2).reshape(x.shape[:2])
    return self._with_mlp(x + y, live), keys_values

  def _with_mlp(self, x: jax.Array, live: jax.Array | None) -> jax.Array:
    y: jax.Array = self.mlp(self.mlp_norm(x), live)
    return x + y


class Transformer(nnx.Module):
  """Maps token ids to final hidden states; the head's kernel is `unembed`.

  Args:
    cfg: the architecture.
    remat: decides which activations of a layer are kept for its backward pass;
      None: all.
    rngs: draws random parameters.
  """

  routes: Any = None  # see `routes.attach`

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
    def stack(layers: int, mixture: bool) -> Any:
      make: Any = nnx.vmap(
        lambda r: Layer(cfg, mixture, rngs=r), in_axes=0, out_axes=0)
      return make(rngs.split(layers))

    dense = cfg.experts.dense_layers if cfg.experts.number else 0
    if dense:
      self.dense_layers = stack(dense, False)
    self.layers = stack(cfg.layers - dense, cfg.experts.number > 0)
    self.stacks = ("dense_layers", "layers") if dense else ("layers",)
    self.norm = norm(cfg, cfg.width, rngs)
    if not cfg.tied:
      self.unembed = linear.dense(
        cfg, cfg.width, cfg.vocab_size, rngs)
    self.remat = remat
    self.rotated = cfg.rotary_dim or cfg.head_dim
    self.rope_theta = cfg.rope_theta
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
    # Outside of the scan, so that it is computed once.
    turn = rotation(positions, self.rotated, self.rope_theta)
    blocks = positions // self.block_length if self.block_length else None

    def layer(
      module: Layer, x: jax.Array, cache: KeysValues | None
    ) -> tuple[jax.Array, KeysValues | None]:
      x, keys_values = module(
        x, turn, lengths, cache, start, before, blocks=blocks)
      # scan stacks what it returns: without a cache to keep, that would be keys
      # and values of all layers.
      return x, keys_values if keep else None

    x = self._lookup(ids)
    if columns is None:
      x, cache = self._scan(layer, x, cache)
      return self.norm(x), cache if keep else None
    *earlier, name = self.stacks
    x, _ = self._scan(layer, x, None, tuple(earlier))
    definition, stacked = nnx.split(getattr(self, name))

    def at(i: jax.Array | int) -> Any:
      # Indexed inside the loop, as a scan does: slices of the stacks, to scan
      # all layers but the last, would be copies of the parameters.
      return jax.tree.map(lambda w: w[i], stacked)

    run = self._rematerialised(lambda x, weights: layer(
      nnx.merge(definition, weights), mesh_lib.shard_batch(x), None))
    last = jax.tree.leaves(stacked)[0].shape[0] - 1
    x, _ = jax.lax.scan(lambda x, i: run(x, at(i)), x, jnp.arange(last))
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
    turn = rotation(positions, self.rotated, self.rope_theta)
    return self._scan(
      lambda layer, x, prefix: layer.extend(
        x, turn, positions, lengths, prefix), self._lookup(ids), prefix)[1]

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
    turn = rotation(positions, self.rotated, self.rope_theta)

    def noisy(
      layer: Layer, x: jax.Array, clean: KeysValues
    ) -> tuple[jax.Array, KeysValues]:
      x, (k, v) = layer.noisy(x, turn, clean, blocks)
      return x, (k[:, :kept], v[:, :kept])

    x, keys_values = self._scan(noisy, self._lookup(ids), clean)
    return self.norm(x), keys_values

  def expert_load(self, ids: jax.Array, lengths: jax.Array) -> ExpertLoad:
    """Measures the load of experts, of whole rows [b, t] in ordinary order.

    Returns:
      As of one layer, with a leading axis of layers that have experts.
    """
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    turn = rotation(positions, self.rotated, self.rope_theta)
    blocks = positions // self.block_length if self.block_length else None
    live = positions < lengths[:, None]

    def one(layer: Layer, x: jax.Array, _: None) -> tuple[jax.Array, Any]:
      y = layer.attention(
        layer.attention_norm(x), turn, lengths, blocks=blocks)[0]
      if not isinstance(layer.mlp, Mixture):
        return layer._with_mlp(x + y, live), None
      found = layer.mlp.expert_load(layer.mlp_norm(x + y), live)
      return layer._with_mlp(x + y, live), found

    return ExpertLoad(*self._scan(one, self._lookup(ids), None)[1])

  def _scan(
    self, fn: Callable[[Layer, jax.Array, Any], tuple[jax.Array, Any]],
    x: jax.Array, cache: Cache | None, stacks: tuple[str, ...] | None = None,
  ) -> tuple[jax.Array, Cache]:
    """Applies `fn` to one layer of `stacks` after the other; None: of all.

    Args:
      fn: maps a layer, `x` and the layer's part of `cache` to the next `x` and
        the layer's keys and values, or None.
      x: [b, t, d].
      cache: see `Cache`; None: nothing.
      stacks: attributes with layers.

    Returns:
      The last `x`; the keys and values of all layers.
    """
    kept: Cache = ()
    for i, name in enumerate(self.stacks if stacks is None else stacks):
      definition, stacked = nnx.split(getattr(self, name))

      def layer(
        x: jax.Array, parts: Any, definition: Any = definition
      ) -> tuple[jax.Array, Any]:
        weights, cache = parts
        module = nnx.merge(definition, weights)
        x, keys_values = fn(module, mesh_lib.shard_batch(x), cache)
        return x, (keys_values, nnx.pop(module, nnx.Intermediate))

      own = None if cache is None else cache[2 * i:2 * i + 2]
      x, (keys_values, chosen) = jax.lax.scan(
        self._rematerialised(layer), x, (stacked, own))
      kept += keys_values or ()
      if self.routes is not None:
        self.routes.extend(jax.tree.leaves(chosen))
    return x, kept

  def _rematerialised(self, layer: Callable[..., Any]) -> Callable[..., Any]:
    if self.remat is None and not by_hand.splits():
      return layer
    return jax.checkpoint(layer, policy=self.remat or _all_but_gathered)

  def _lookup(self, ids: jax.Array) -> jax.Array:
    """Embeds ids [b, t] as [b, t, d]."""
    return by_hand.rows_of(
      self.embed.embedding.get_value(), ids, self.embed.dtype)
