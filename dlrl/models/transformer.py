"""The transformer of LLaDA, Dream, Qwen and SDAR, with their options.

The config selects grouped keys and values, biases of queries, keys and values,
norms of queries and keys, a tied head, Dream's shifted outputs, and attention.

Attention is full, or block-causal as in SDAR: blocks of `block_length` tokens,
counted from position 0 of a row whatever its prompt, see themselves and the
blocks before them. Such a model predicts tokens of noisy blocks after clean
ones, in two streams. A clean token never sees a noisy one, so keys and values
of clean rows are computed once (`Model.clean_stream`). Any number of noisy
versions of the rows, or of parts of them, is computed against these
(`Model.noisy_stream`).

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
from dlrl import strict
from dlrl.diffusion import model_input
from dlrl.models import attention
from dlrl.models import attention_layer
from dlrl.models import layers
from dlrl.models import lora
from dlrl.models.mlp import experts
from dlrl.models.mlp import routes
from dlrl.runtime import mesh as mesh_lib
from dlrl.runtime.sharding import by_hand

Params = dict[str, Any]


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
    routes: experts of passes, see `mlp.routes`; None: each chooses its own.
  """

  cfg: config.ModelConfig
  definition: Any
  mask_id: int
  adapters: config.LoraConfig = config.NO_LORA
  routes: Any = None

  def init(self, key: jax.Array) -> Params:
    """Draws random parameters; jit it with `out_shardings` to split them."""
    return nnx.to_pure_dict(nnx.state(_network(self.cfg, nnx.Rngs(key))))

  def _network(self, params: Params) -> layers.Transformer:
    # The adapter's product is added to the layer's; merging the matrices first
    # would copy the base.
    base, adapter = lora.split(params)
    network: layers.Transformer = nnx.merge(
      self.definition, params if base is None else base)
    if base is not None:
      lora.attach(network, adapter, self.adapters.scale)
    routes.attach(network, self.routes)
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
      columns = attention_layer.take(
        model_input.before(positions, lengths), columns)
    return network(ids, positions, lengths, columns=columns)[0]

  def hidden_and_cache(
    self, params: Params, ids: jax.Array, positions: jax.Array,
    lengths: jax.Array,
  ) -> tuple[jax.Array, layers.Cache]:
    """Computes `hidden` of all columns, and a cache for `hidden_of_part`."""
    hidden, cache = self._network(params)(
      ids, positions, lengths, keep=True)
    assert cache is not None
    return self._unshift(hidden, positions, lengths), cache

  def hidden_of_part(
    self, params: Params, ids: jax.Array, positions: jax.Array,
    lengths: jax.Array, cache: layers.Cache, start: jax.Array | int, width: int,
  ) -> jax.Array:
    """Computes `hidden` of `width` columns, from column `start` on, row by row.

    These columns attend to the cached keys and values of all other columns, so
    changes of `ids` elsewhere since the cache was made are not seen. That is
    the approximation of Fast-dLLM (arXiv 2505.22618).

    Args:
      params: as `hidden`.
      ids: [b, t] int, whole rows.
      positions: [b, t] int.
      lengths: [b] int.
      cache: from `hidden_and_cache` of the same rows.
      start: [b] int, or a scalar for all rows; may be traced.
      width: w.

    Returns:
      [b, w, d] in the compute dtype.

    Raises:
      ValueError: attention is block-causal.
    """
    if self.cfg.block_length:
      raise ValueError("hidden_of_part: approximate caches are for full "
                       "attention; with blocks, `noisy_stream` is exact")
    start = jnp.broadcast_to(start, ids.shape[0])
    columns = start[:, None] + jnp.arange(width)[None]
    before = None
    if self.cfg.shifted:
      # The token before the part predicts the part's first token, so it is
      # computed anew as well.
      before = attention_layer.take(
        model_input.before(positions, lengths), start[:, None])[:, 0]
      columns = jnp.concatenate([before[:, None], columns], 1)
    ids, positions = (
      jnp.take_along_axis(x, columns, 1) for x in (ids, positions))
    hidden, _ = self._network(params)(
      ids, positions, lengths, cache, start, before)
    return hidden[:, :width]

  def clean_stream(
    self, params: Params, ids: jax.Array, lengths: jax.Array
  ) -> layers.Cache:
    """Computes the keys and values that noisy blocks attend to.

    Args:
      params: as `hidden`.
      ids: [b, t] int, clean rows in ordinary order, padded at the end.
      lengths: [b] int, tokens of each row, at least 1.

    Returns:
      Of [layers, b, t, g, k] in the compute dtype. Those of a block
      depend on it and the blocks before it only, so that rows with the same
      beginning may share them.
    """
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape)
    return self._network(params).extend(
      ids, positions, lengths, self._nothing(ids.shape[0]))

  def clean_rows(
    self, params: Params, prompt: jax.Array, prompt_length: jax.Array,
    completion: jax.Array, lengths: jax.Array,
  ) -> layers.Cache:
    """Computes `clean_stream` of prompts with their completions.

    Whole blocks of a prompt are computed once for all its completions.

    Args:
      params: as `hidden`.
      prompt: [g, p] int, padded on the right; b/g completions after one another
        are to the same one.
      prompt_length: [g] int.
      completion: [b, t] int, without mask tokens.
      lengths: [b] int, tokens of each prompt with its completion.

    Returns:
      Two of [layers, b, s, g, k] in the compute dtype, in ordinary order;
      columns from `lengths` on are padding.
    """
    size, b = self.cfg.block_length, completion.shape[0]
    whole = prompt.shape[1] // size * size
    if whole:
      prefix = self.clean_stream(
        params, prompt[:, :whole],
        jnp.clip(prompt_length // size * size, 1, whole))
    else:
      prefix = self._nothing(prompt.shape[0])
    prompt, prompt_length = (
      jnp.repeat(x, b // x.shape[0], 0) for x in (prompt, prompt_length))
    rows = model_input.blocks(completion, prompt, prompt_length, size)
    return self._network(params).extend(
      rows.ids, rows.positions, lengths, prefix)

  def _nothing(self, rows: int) -> layers.Cache:
    """Keys and values of rows without columns."""
    cfg = self.cfg
    dense = cfg.experts.dense_layers if cfg.experts.number else 0
    return tuple(
      jnp.zeros((layers, rows, 0, cfg.kv_heads, cfg.head_dim),
                jnp.dtype(cfg.compute_dtype))
      for layers in (dense, cfg.layers - dense) if layers for _ in "kv")

  def noisy_stream(
    self, params: Params, ids: jax.Array, positions: jax.Array,
    lengths: jax.Array, clean: layers.Cache,
  ) -> jax.Array:
    """Computes hidden states of noisy blocks after clean ones.

    They are those of the first half of the published forward pass over
    [noisy | clean], of any of its blocks.

    Args:
      params: as `hidden`.
      ids: [b, w] int, whole blocks with mask tokens; or a single block's first
        columns. Which blocks may differ between rows.
      positions: [b, w] int. Every column whose number is a multiple of
        `cfg.block_length` is at such a position, and others follow on it.
      lengths: [b] int, tokens of each row; nothing attends to later positions.
      clean: from `clean_stream`, of the same rows.

    Returns:
      [b, w, d] in the compute dtype, of which `logits` are `hidden @ unembed`.

    Raises:
      ValueError: attention is full, or the columns are not whole blocks.
    """
    if not self.cfg.block_length:
      raise ValueError("noisy_stream: this model has full attention and no "
                       "noisy stream; use `hidden`")
    return self._network(params).noisy(
      ids, positions, clean, attention.noisy_blocks(
        positions, lengths, self.cfg.block_length))[0]

  def next_block(
    self, params: Params, ids: jax.Array, start: jax.Array, lengths: jax.Array,
    clean: layers.Cache,
  ) -> tuple[jax.Array, layers.Cache]:
    """Computes a noisy block, and what `clean_stream` lacks of the one before.

    So a decoder needs no forward pass of its own for a block that it finished.

    Args:
      params: as `hidden`.
      ids: [b, 2 B] int, a clean block and the noisy one after it.
      start: [b] int, the noisy block's first position; at 0 the clean block is
        ignored.
      lengths: [b] int, tokens of each row; nothing attends to later positions.
      clean: of the same rows, needed only before the clean block.

    Returns:
      [b, B, d], hidden states of the noisy block as those of `noisy_stream`;
      the clean block's keys and values, two of [layers, b, B, g, k].
    """
    size = self.cfg.block_length
    positions = start[:, None] + jnp.arange(-size, size)[None]
    hidden, keys_values = self._network(params).noisy(
      ids, positions, clean,
      attention.clean_then_noisy(start, lengths, size), kept=size)
    return hidden[:, size:], keys_values

  def _unshift(
    self, hidden: jax.Array, positions: jax.Array, lengths: jax.Array
  ) -> jax.Array:
    """Moves each output to the column of the token that it predicts."""
    if not self.cfg.shifted:
      return hidden
    return jnp.take_along_axis(
      hidden, model_input.before(positions, lengths)[..., None], 1)

  def unembed(self, params: Params) -> jax.Array:
    """Returns the head's matrix [d, v]; logits are `hidden @ unembed`."""
    params = params.get("base", params)  # the head has no adapter
    dtype = jnp.dtype(self.cfg.compute_dtype)
    kernel = (by_hand.whole(params["embed"]["embedding"], dtype).T
              if self.cfg.tied
              else by_hand.whole(params["unembed"]["kernel"], dtype))
    # Gathered along d once, or XLA may gather it for every chunk of positions.
    # Its gradient stays split along d, or each device would hold all of it.
    return mesh_lib.gathered(
      kernel.astype(dtype), P(None, "tensor"), P("fsdp", "tensor"))

  def logits(
    self, params: Params, ids: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """Computes logits [b, t, v] fp32 of rows in ordinary order.

    For small inputs: training and sampling never hold logits of all columns.
    With block-causal attention the rows are clean ones; see `noisy_logits`.

    Args:
      params: as `hidden`.
      ids: [b, t] int, padded at the end.
      lengths: [b] int, tokens of each row; None: no padding.
    """
    ids = jnp.asarray(ids)
    b, t = ids.shape
    lengths = jnp.full(b, t) if lengths is None else jnp.asarray(lengths)
    positions = jnp.broadcast_to(jnp.arange(t), (b, t))
    return self._unembedded(
      params, self.hidden(params, ids, positions, lengths))

  def noisy_logits(
    self, params: Params, noisy: jax.Array, clean: jax.Array,
    lengths: jax.Array | None = None,
  ) -> jax.Array:
    """Computes logits [b, t, v] fp32 of noisy blocks, each after clean ones.

    They are those of the published forward pass over [noisy | clean]. For small
    inputs, as `logits`.

    Args:
      params: as `hidden`.
      noisy: [b, t] int, rows with mask tokens, padded at the end.
      clean: [b, t] int, the same rows without mask tokens.
      lengths: [b] int, tokens of each row; None: no padding.

    Raises:
      ValueError: attention is full, or the rows differ in shape.
    """
    noisy, clean = jnp.asarray(noisy), jnp.asarray(clean)
    if noisy.shape != clean.shape or noisy.ndim != 2:
      raise ValueError(
        "noisy_logits: noisy and clean must both be [b, t], got "
        f"{noisy.shape} and {clean.shape}")
    b, t = clean.shape
    lengths = jnp.full(b, t) if lengths is None else jnp.asarray(lengths)
    # A row that is shorter than a block needs no whole one.
    size = max(min(self.cfg.block_length, t), 1)
    noisy = jnp.pad(noisy, ((0, 0), (0, -t % size)))
    positions = jnp.broadcast_to(jnp.arange(noisy.shape[1]), noisy.shape)
    hidden = self.noisy_stream(
      params, noisy, positions, lengths,
      self.clean_stream(params, clean, lengths))
    return self._unembedded(params, hidden[:, :t])

  def expert_load(
    self, params: Params, ids: jax.Array, lengths: jax.Array
  ) -> experts.ExpertLoad:
    """Measures the load of experts by clean rows in ordinary order.

    Args:
      params: as `hidden`; the model has experts.
      ids: [b, t] int, padded at the end.
      lengths: [b] int, tokens of each row.

    Returns:
      With a leading axis of layers that have experts.
    """
    return self._network(params).expert_load(ids, lengths)

  def _unembedded(self, params: Params, hidden: jax.Array) -> jax.Array:
    return jnp.einsum("btd,dv->btv", hidden, self.unembed(params),
                      preferred_element_type=jnp.float32)


def build(
  cfg: config.ModelConfig, mask_id: int,
  adapters: config.LoraConfig = config.NO_LORA,
) -> Model:
  """Makes the model of an architecture, without allocating parameters.

  Raises:
    strict.ConfigError: block-causal attention with another option that is not
      implemented for it, or a mixture of experts that makes no sense.
  """
  strict.require(
    not (cfg.block_length and cfg.shifted), "model.shifted", cfg.shifted,
    f"must be False with model.block_length = {cfg.block_length}")
  if cfg.experts.number:
    experts.check(cfg)
  module = nnx.eval_shape(lambda: _network(cfg, nnx.Rngs(0)))
  return Model(cfg, nnx.split(module)[0], mask_id, adapters)


def _network(cfg: config.ModelConfig, rngs: nnx.Rngs) -> layers.Transformer:
  return layers.Transformer(cfg, layers.REMAT[cfg.remat], rngs=rngs)
