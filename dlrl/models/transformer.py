"""The transformer of LLaDA, Dream and bidirectional Qwen: one, with options.

Pre-norm, bidirectional, RoPE, SwiGLU; grouped keys and values, biases of
queries, keys and values, norms of queries and keys, a tied head and Dream's
shifted outputs as the config says.

Flax NNX modules describe the architecture. `build` splits one instance into a
static definition and nested dicts of arrays, once; everything downstream calls
pure functions of (params, arrays). Layers are stacked on a leading axis and run
by `lax.scan`, each rematerialised as the config says.

Source: LLaDA (arXiv 2502.09992), Dream (arXiv 2508.15487) and their published
modeling code: no causal mask, rotate-half RoPE in fp32, RMSNorm in fp32.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P

from dlrl import config
from dlrl.models import attention
from dlrl.models import lora
from dlrl.models import xla_attention
from dlrl.runtime import mesh as mesh_lib

Params = dict[str, Any]
Cache = tuple[jax.Array, jax.Array]  # keys, values: [layers, b, t, g, k]

# What a layer keeps for its backward pass.
REMAT = {
  "none": None,
  # Products with weights, and what attention came to.
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(xla_attention.KEPT)),
  "full": jax.checkpoint_policies.nothing_saveable,
}

# Every parameter matches exactly one row; the stacked layer axis comes first.
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


def _linear(
  cfg: config.ModelConfig,
  inputs: int,
  outputs: int,
  rngs: nnx.Rngs,
  *,
  bias: bool = False,
):
  return lora.Linear(
    inputs, outputs, use_bias=bias, rngs=rngs,
    dtype=jnp.dtype(cfg.compute_dtype), param_dtype=jnp.dtype(cfg.param_dtype),
  )


def _norm(cfg: config.ModelConfig, width: int, rngs: nnx.Rngs):
  return nnx.RMSNorm(
    width, epsilon=cfg.norm_eps, rngs=rngs,
    dtype=jnp.dtype(cfg.compute_dtype), param_dtype=jnp.dtype(cfg.param_dtype),
  )


class Attention(nnx.Module):
  """Multi-head attention; grouped when kv_heads < heads."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    inner, kv_inner = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    self.head_dim = cfg.head_dim
    self.backend = cfg.attention
    self.q = _linear(cfg, cfg.width, inner, rngs, bias=cfg.qkv_bias)
    self.k = _linear(cfg, cfg.width, kv_inner, rngs, bias=cfg.qkv_bias)
    self.v = _linear(cfg, cfg.width, kv_inner, rngs, bias=cfg.qkv_bias)
    self.out = _linear(cfg, inner, cfg.width, rngs)
    self.qk_norm = cfg.qk_norm
    if cfg.qk_norm:
      self.q_norm = _norm(cfg, cfg.head_dim, rngs)
      self.k_norm = _norm(cfg, cfg.head_dim, rngs)

  def __call__(self, x, turn, lengths, cache=None, start=0, before=None, *,
               columns=None):
    """[b, t, d] to [b, t, d], and the (keys, values) of all columns.

    With `columns` [b, w] to [b, w, d], what these see.
    """
    asking = _take(x, columns)
    q, k, v = (f(y).reshape(*y.shape[:2], -1, self.head_dim)
               for f, y in ((self.q, asking), (self.k, x), (self.v, x)))
    if self.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    q = attention.rope(q, tuple(_take(angle, columns) for angle in turn))
    k = attention.rope(k, turn)
    if cache is not None:
      k, v = (_renewed(old, new, start, before)
              for old, new in zip(cache, (k, v), strict=True))
    y = attention.bidirectional(q, k, v, lengths, backend=self.backend)
    return self.out(y.reshape(*asking.shape[:2], -1)), (k, v)


def _take(x, columns):
  """[b, w, ...] of [b, t, ...]; all of them if `columns` [b, w] is None."""
  if columns is None:
    return x
  return jnp.take_along_axis(
    x, columns.reshape(*columns.shape, *(1,) * (x.ndim - 2)), 1)


def _renewed(cache, new, start, before):
  """A cache [b, t, g, k] with its columns from `start` on anew.

  The first of the new ones goes to column `before` [b], unless that is None.
  """
  if before is not None:
    # A select: a scatter to a column per row would be slow on a TPU.
    first, new = new[:, :1], new[:, 1:]
    there = jnp.arange(cache.shape[1])[None] == before[:, None]
    cache = jnp.where(there[:, :, None, None], first, cache)
  return jax.lax.dynamic_update_slice_in_dim(cache, new, start, 1)


class MLP(nnx.Module):
  """SwiGLU."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    self.gate = _linear(cfg, cfg.width, cfg.mlp_width, rngs)
    self.up = _linear(cfg, cfg.width, cfg.mlp_width, rngs)
    self.down = _linear(cfg, cfg.mlp_width, cfg.width, rngs)

  def __call__(self, x):
    """[b, t, d] to [b, t, d]."""
    return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class Layer(nnx.Module):
  """One pre-norm residual block."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    self.attention_norm = _norm(cfg, cfg.width, rngs)
    self.attention = Attention(cfg, rngs=rngs)
    self.mlp_norm = _norm(cfg, cfg.width, rngs)
    self.mlp = MLP(cfg, rngs=rngs)

  def __call__(self, x, *where, columns=None):
    """[b, t, d] to [b, t, d], and keys and values; see `Attention`."""
    y, keys_values = self.attention(
      self.attention_norm(x), *where, columns=columns)
    x = _take(x, columns) + y
    return x + self.mlp(self.mlp_norm(x)), keys_values


class Transformer(nnx.Module):
  """Token ids to hidden states; the head's kernel is `unembed`."""

  def __init__(self, cfg: config.ModelConfig, *, rngs: nnx.Rngs):
    self.embed = nnx.Embed(
      cfg.vocab_size, cfg.width, rngs=rngs,
      dtype=jnp.dtype(cfg.compute_dtype),
      param_dtype=jnp.dtype(cfg.param_dtype),
    )
    stack = nnx.vmap(lambda r: Layer(cfg, rngs=r), in_axes=0, out_axes=0)
    self.layers = stack(rngs.split(cfg.layers))
    self.norm = _norm(cfg, cfg.width, rngs)
    if not cfg.tied:
      self.unembed = _linear(cfg, cfg.width, cfg.vocab_size, rngs)
    self.remat = cfg.remat
    self.head_dim, self.rope_theta = cfg.head_dim, cfg.rope_theta

  def __call__(self, ids, positions, lengths, cache=None, start=0,
               before=None, *, keep=False, columns=None):
    """Final hidden states [b, t, d], and if `keep` is set, a cache.

    With a cache, ids and positions are those of its columns from `start` on,
    after those of column `before` [b] unless that is None. With `columns`
    [b, w] (and no cache), states of these alone, [b, w, d].
    """
    definition, stacked = nnx.split(self.layers)
    turn = attention.rotation(positions, self.head_dim, self.rope_theta)

    def layer(x, one):
      weights, cache = one
      x = mesh_lib.shard_batch(x)
      x, keys_values = nnx.merge(definition, weights)(
        x, turn, lengths, cache, start, before)
      return x, keys_values if keep else None

    policy = REMAT[self.remat]
    if policy is not None:
      layer = jax.checkpoint(layer, policy=policy)
    x = self._lookup(ids)
    if columns is None:
      x, cache = jax.lax.scan(layer, x, (stacked, cache))
      return self.norm(x), cache

    def at(i):
      # In the loop, as a scan does: parts of the stacks would be copies.
      return jax.tree.map(lambda w: w[i], stacked)

    last = jax.tree.leaves(stacked)[0].shape[0] - 1
    x, _ = jax.lax.scan(
      lambda x, i: layer(x, (at(i), None)), x, jnp.arange(last))
    x, _ = nnx.merge(definition, at(last))(
      mesh_lib.shard_batch(x), turn, lengths, columns=columns)
    return self.norm(x), None

  def _lookup(self, ids):
    """Embeddings [b, t, d] of ids [b, t].

    Devices look up their part of the width for the rows of all, and exchange
    them: a table that is gathered, and its gradient, would be gigabytes.
    """
    ids = mesh_lib.constrain(ids, "data", None)
    x = self.embed.embedding[...][ids].astype(self.embed.dtype)
    return mesh_lib.shard_batch(mesh_lib.constrain(x, "data", None, "fsdp"))


@dataclasses.dataclass(frozen=True)
class Model:
  """A network as pure functions of its parameters.

  Attributes:
    cfg: the architecture.
    definition: the static half of the split NNX module.
    mask_id: the id of the mask token.
    adapters: those that parameters may have (`lora`).
  """

  cfg: config.ModelConfig
  definition: Any
  mask_id: int
  adapters: config.LoraConfig = config.NO_LORA

  def init(self, key: jax.Array) -> Params:
    """Random parameters; jit it with `out_shardings` to make them sharded."""
    module = Transformer(self.cfg, rngs=nnx.Rngs(key))
    return nnx.to_pure_dict(nnx.state(module))

  def _network(self, params: Params) -> Transformer:
    base, adapter = lora.split(params)
    if base is None:
      return nnx.merge(self.definition, params)
    network = nnx.merge(self.definition, base)
    lora.attach(network, adapter, self.adapters.scale)
    return network

  def hidden(self, params: Params, ids, positions, lengths, columns=None
             ) -> jax.Array:
    """Final hidden states [b, t, d] that predict each column's token.

    In the compute dtype. Of a model with shifted outputs they are those of the
    token before. With `columns` the last layer computes no others; gradients
    are exact but slower, as all layers' are added up layer by layer.

    Args:
      params: from `init`, or an adapter on them (`lora`).
      ids: [b, t] int, in ordinary order or canvas first (`diffusion.rows`).
      positions: [b, t] int, for RoPE and the shift.
      lengths: [b] int; columns from there on are padding and nobody sees them.
      columns: [b, w] int, of those to return, [b, w, d]; None: all.
    """
    network = self._network(params)
    if columns is None:
      hidden, _ = network(ids, positions, lengths)
      return self._of_columns(hidden, positions, lengths)
    if self.cfg.shifted:
      columns = _take(_before(positions, lengths), columns)
    hidden, _ = network(ids, positions, lengths, columns=columns)
    return hidden

  def hidden_and_cache(
    self, params: Params, ids, positions, lengths
  ) -> tuple[jax.Array, Cache]:
    """`hidden`, and what `hidden_of_part` takes for columns left as they are.
    """
    hidden, cache = self._network(params)(
      ids, positions, lengths, keep=True)
    return self._of_columns(hidden, positions, lengths), cache

  def hidden_of_part(
    self, params: Params, ids, positions, lengths, cache: Cache, start,
    width: int,
  ) -> jax.Array:
    """`hidden` of w columns [b, w, d], the first of them `start`.

    They see the other columns as they were when the cache was made. With
    shifted outputs the token before the part is computed anew, too: it is what
    predicts the first of them.

    Args:
      params: from `init`.
      ids: [b, t] int, of whole rows.
      positions: [b, t] int.
      lengths: [b] int.
      cache: of whole rows.
      start: scalar int.
      width: w.
    """
    columns = jnp.broadcast_to(
      start + jnp.arange(width)[None], (ids.shape[0], width))
    before = None
    if self.cfg.shifted:
      before = _before(positions, lengths)[:, start]
      columns = jnp.concatenate([before[:, None], columns], 1)
    ids, positions = (
      jnp.take_along_axis(x, columns, 1) for x in (ids, positions))
    hidden, _ = self._network(params)(
      ids, positions, lengths, cache, start, before)
    return hidden[:, :width]

  def _of_columns(self, hidden, positions, lengths) -> jax.Array:
    """The outputs that predict each column's token, of those of each column."""
    if not self.cfg.shifted:
      return hidden
    return jnp.take_along_axis(
      hidden, _before(positions, lengths)[..., None], 1)

  def unembed(self, params: Params) -> jax.Array:
    """The head's matrix [d, v]; logits are `hidden @ unembed`.

    Gathered along d here, or XLA may do so for each chunk of positions; the
    gradient is split along d, or every device would have all of it.
    """
    params = params.get("base", params)  # the head has no adapter
    kernel = (params["embed"]["embedding"].T if self.cfg.tied
              else params["unembed"]["kernel"])
    return mesh_lib.gathered(
      kernel.astype(jnp.dtype(self.cfg.compute_dtype)), P(None, "tensor"),
      P("fsdp", "tensor"))

  def logits(
    self, params: Params, ids: jax.Array, lengths: jax.Array | None = None
  ) -> jax.Array:
    """Logits [b, t, v] fp32 of rows from left to right; for small inputs.

    Args:
      params: from `init` or `hf_checkpoints.load`.
      ids: [b, t] int.
      lengths: [b] int, tokens before the padding at the end; None: all.
    """
    ids = jnp.asarray(ids)
    b, t = ids.shape
    lengths = jnp.full(b, t) if lengths is None else jnp.asarray(lengths)
    positions = jnp.broadcast_to(jnp.arange(t), (b, t))
    return jnp.einsum(
      "btd,dv->btv", self.hidden(params, ids, positions, lengths),
      self.unembed(params), preferred_element_type=jnp.float32)


def _before(positions, lengths) -> jax.Array:
  """Column of the token before each, [b, t]; of the first token its own.

  In both orders it is the column before, but for that of the first column,
  which is the row's last one unless there is none.
  """
  column = jnp.arange(positions.shape[1])[None]
  before = jnp.where(column == 0, lengths[:, None] - 1, column - 1)
  return jnp.where(positions == 0, column, before)


def build(cfg: config.ModelConfig, mask_id: int,
          adapters: config.LoraConfig = config.NO_LORA) -> Model:
  """The static definition of `cfg`'s network; allocates nothing."""
  module = nnx.eval_shape(lambda: Transformer(cfg, rngs=nnx.Rngs(0)))
  return Model(cfg, nnx.split(module)[0], mask_id, adapters)
