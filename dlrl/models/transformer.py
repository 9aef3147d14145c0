"""The transformer of LLaDA, Dream and bidirectional Qwen, with their options.

The config selects grouped keys and values, biases of queries, keys and values,
norms of queries and keys, a tied head, and Dream's shifted outputs.

Flax NNX modules describe the architecture. `build` splits one instance into a
static definition and nested dicts of arrays; everything downstream calls pure
functions of (params, arrays), the methods of `Model`. Layers are stacked on a
leading axis and run by `lax.scan`, so that compile time does not grow with
depth.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl.models import attention
from dlrl.models import layers
from dlrl.models import lora
from dlrl.models import xla_attention
from dlrl.runtime import mesh as mesh_lib

Params = dict[str, Any]
Cache = tuple[jax.Array, jax.Array]  # keys, values: [layers, b, t, g, k]

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


class Transformer(nnx.Module):
  """Maps token ids to final hidden states; the head's kernel is `unembed`."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    self.embed = nnx.Embed(
      cfg.vocab_size, cfg.width, rngs=rngs,
      dtype=jnp.dtype(cfg.compute_dtype),
      param_dtype=jnp.dtype(cfg.param_dtype),
    )
    # One module whose arrays have a leading axis of layers, which scan consumes
    # and a checkpoint stores as one array per kind of parameter.
    stack: Any = nnx.vmap(
      lambda r: layers.Layer(cfg, rngs=r), in_axes=0, out_axes=0)
    self.layers = stack(rngs.split(cfg.layers))
    self.norm = layers.norm(cfg, cfg.width, rngs)
    if not cfg.tied:
      self.unembed = layers.dense(cfg, cfg.width, cfg.vocab_size, rngs)
    self.remat = cfg.remat
    self.head_dim, self.rope_theta = cfg.head_dim, cfg.rope_theta

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
        `layers.Attention`.
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

    def layer(
      x: jax.Array, weights_and_cache: Any
    ) -> tuple[jax.Array, Cache | None]:
      weights, cache = weights_and_cache
      x = mesh_lib.shard_batch(x)
      x, keys_values = nnx.merge(definition, weights)(
        x, turn, lengths, cache, start, before)
      # scan stacks what it returns: without a cache to keep, that would be keys
      # and values of all layers.
      return x, keys_values if keep else None

    policy = REMAT[self.remat]
    if policy is not None:
      layer = jax.checkpoint(layer, policy=policy)
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
      mesh_lib.shard_batch(x), turn, lengths, columns=columns)
    return self.norm(x), None

  def _lookup(self, ids: jax.Array) -> jax.Array:
    """Embeds ids [b, t] as [b, t, d]."""
    # Each device looks up its slice of the width for the rows of all devices
    # along `fsdp`, and then they exchange activations. Gathering the table
    # instead, and its gradient, would take gigabytes per device.
    ids = mesh_lib.constrain(ids, "data", None)
    x = self.embed.embedding[...][ids].astype(self.embed.dtype)
    return mesh_lib.shard_batch(mesh_lib.constrain(x, "data", None, "fsdp"))


@dataclasses.dataclass(frozen=True)
class Model:
  """A network as pure functions of its parameters.

  Rows [b, t] may be in ordinary order or canvas first (`model_input`): the
  order in memory is free, `positions` say what is next to what.

  Attributes:
    cfg: the architecture.
    definition: the static half of the split NNX module.
    mask_id: the id of the mask token.
    adapters: rank, alpha and targets of the adapters that `params` may contain;
      see `lora`.
  """

  cfg: config.ModelConfig
  definition: Any
  mask_id: int
  adapters: config.LoraConfig = config.NO_LORA

  def init(self, key: jax.Array) -> Params:
    """Draws random parameters; jit it with `out_shardings` to split them."""
    module = Transformer(self.cfg, rngs=nnx.Rngs(key))
    return nnx.to_pure_dict(nnx.state(module))

  def _network(self, params: Params) -> Transformer:
    # The adapter's product is added to the layer's; merging the matrices first
    # would copy the base.
    base, adapter = lora.split(params)
    network: Transformer = nnx.merge(
      self.definition, params if base is None else base)
    if base is not None:
      lora.attach(network, adapter, self.adapters.scale)
    return network

  def hidden(
    self, params: Params, ids: jax.Array, positions: jax.Array,
    lengths: jax.Array, columns: jax.Array | None = None,
  ) -> jax.Array:
    """Computes the final hidden states from which each token is predicted.

    Column i of the result predicts the token of column i: if outputs are
    shifted, it is the network's output at the token before.

    Args:
      params: from `init` or `load`, or an adapter on them (`lora.join`).
      ids: [b, t] int.
      positions: [b, t] int, for RoPE and the shift.
      lengths: [b] int; columns from `lengths` on are padding, which no other
        column attends to.
      columns: [b, w] int, the only columns to return. The last layer then
        computes no others; gradients are exact but slower, because those of the
        stacked parameters are accumulated layer by layer. None: all columns.

    Returns:
      [b, t, d], or [b, w, d] with `columns`, in the compute dtype.
    """
    network = self._network(params)
    if columns is None:
      hidden, _ = network(ids, positions, lengths)
      return self._unshift(hidden, positions, lengths)
    if self.cfg.shifted:
      columns = layers.take(_before(positions, lengths), columns)
    hidden, _ = network(ids, positions, lengths, columns=columns)
    return hidden

  def hidden_and_cache(
    self, params: Params, ids: jax.Array, positions: jax.Array,
    lengths: jax.Array,
  ) -> tuple[jax.Array, Cache]:
    """Computes `hidden` of all columns, and a cache for `hidden_of_part`."""
    hidden, cache = self._network(params)(
      ids, positions, lengths, keep=True)
    assert cache is not None
    return self._unshift(hidden, positions, lengths), cache

  def hidden_of_part(
    self, params: Params, ids: jax.Array, positions: jax.Array,
    lengths: jax.Array, cache: Cache, start: jax.Array | int, width: int,
  ) -> jax.Array:
    """Computes `hidden` of `width` columns, from column `start` on.

    These columns attend to the cached keys and values of all other columns, so
    changes of `ids` elsewhere since the cache was made are not seen. That is
    the approximation of Fast-dLLM (arXiv 2505.22618).

    Args:
      params: as `hidden`.
      ids: [b, t] int, whole rows.
      positions: [b, t] int.
      lengths: [b] int.
      cache: from `hidden_and_cache` of the same rows.
      start: scalar int, may be traced.
      width: w.

    Returns:
      [b, w, d] in the compute dtype.
    """
    columns = jnp.broadcast_to(
      start + jnp.arange(width)[None], (ids.shape[0], width))
    before = None
    if self.cfg.shifted:
      # The token before the part predicts the part's first token, so it is
      # computed anew as well.
      before = _before(positions, lengths)[:, start]
      columns = jnp.concatenate([before[:, None], columns], 1)
    ids, positions = (
      jnp.take_along_axis(x, columns, 1) for x in (ids, positions))
    hidden, _ = self._network(params)(
      ids, positions, lengths, cache, start, before)
    return hidden[:, :width]

  def _unshift(
    self, hidden: jax.Array, positions: jax.Array, lengths: jax.Array
  ) -> jax.Array:
    """Moves each output to the column of the token that it predicts."""
    if not self.cfg.shifted:
      return hidden
    return jnp.take_along_axis(
      hidden, _before(positions, lengths)[..., None], 1)

  def unembed(self, params: Params) -> jax.Array:
    """Returns the head's matrix [d, v]; logits are `hidden @ unembed`."""
    params = params.get("base", params)  # the head has no adapter
    kernel = (params["embed"]["embedding"].T if self.cfg.tied
              else params["unembed"]["kernel"])
    # Gathered along d once, or XLA may gather it for every chunk of positions.
    # Its gradient stays split along d, or each device would hold all of it.
    return mesh_lib.gathered(
      kernel.astype(jnp.dtype(self.cfg.compute_dtype)), P(None, "tensor"),
      P("fsdp", "tensor"))

  def logits(
    self, params: Params, ids: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """Computes logits [b, t, v] fp32 of rows in ordinary order.

    For small inputs: training and sampling never hold logits of all columns.

    Args:
      params: as `hidden`.
      ids: [b, t] int, padded at the end.
      lengths: [b] int, tokens of each row; None: no padding.
    """
    ids = jnp.asarray(ids)
    b, t = ids.shape
    lengths = jnp.full(b, t) if lengths is None else jnp.asarray(lengths)
    positions = jnp.broadcast_to(jnp.arange(t), (b, t))
    return jnp.einsum(
      "btd,dv->btv", self.hidden(params, ids, positions, lengths),
      self.unembed(params), preferred_element_type=jnp.float32)


def _before(positions: jax.Array, lengths: jax.Array) -> jax.Array:
  """Finds the column [b, t] of the token before each; of the first, its own.

  Both in ordinary order and canvas first, the token before is one column to the
  left. The exception is column 0 of a row that starts with its canvas: the end
  of the prompt comes before it, in the last live column.
  """
  column = jnp.arange(positions.shape[1])[None]
  before = jnp.where(column == 0, lengths[:, None] - 1, column - 1)
  return jnp.where(positions == 0, column, before)


def build(
  cfg: config.ModelConfig, mask_id: int,
  adapters: config.LoraConfig = config.NO_LORA,
) -> Model:
  """Makes the model of an architecture, without allocating parameters."""
  module = nnx.eval_shape(lambda: Transformer(cfg, rngs=nnx.Rngs(0)))
  return Model(cfg, nnx.split(module)[0], mask_id, adapters)
