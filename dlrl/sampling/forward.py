"""The model as a decoder uses it: hidden states of a canvas, and logits.

With classifier-free guidance every row is computed twice, the second time with
a prompt of mask tokens. The logits are extrapolated away from the second ones.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from dlrl.diffusion import model_input
from dlrl.models import layers
from dlrl.runtime import mesh as mesh_lib

UNROLLED = 32  # slots of a device; with more, programs would become too large


@flax.struct.dataclass
class Forward:
  """The model at given parameters and prompts.

  b rows go in; b are computed, or 2b with guidance: the guided ones first.

  Attributes:
    model: has `hidden`, `unembed` and `mask_id`; for a cache also
      `hidden_and_cache` and `hidden_of_part` (see `transformer.Model`).
    params: the model's parameters.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    cfg_scale: strength of the guidance; 0 turns it off. As in LLaDA, the logits
      are unguided + (cfg_scale + 1) (guided - unguided).
  """

  model: Any = flax.struct.field(pytree_node=False)
  params: Any
  prompt: jax.Array
  prompt_length: jax.Array
  cfg_scale: float = flax.struct.field(pytree_node=False)

  def _rows(self, canvas: jax.Array) -> model_input.ModelInput:
    prompt, length = self.prompt, self.prompt_length
    if self.cfg_scale:
      prompt = jnp.concatenate(
        [prompt, jnp.full_like(prompt, self.model.mask_id)])
    return model_input.assemble(
      self._twice(canvas), prompt, self._twice(length))

  def _twice(self, x: jax.Array) -> jax.Array:
    """Repeats x [b, ...] for the rows without guidance, if there are any."""
    return jnp.concatenate([x, x]) if self.cfg_scale else x

  def block(
    self, canvas: jax.Array, start: jax.Array, width: int
  ) -> jax.Array:
    """Computes hidden states of `width` canvas columns, from `start` on.

    The last layer computes no other columns.

    Args:
      canvas: [b, t] int32, with mask tokens.
      start: [b] int.
      width: w.

    Returns:
      [b or 2b, w, d] in the compute dtype.
    """
    row = self._rows(canvas)
    asked = self._twice(start)[:, None] + jnp.arange(width)[None]
    hidden: jax.Array = self.model.hidden(self.params, *row, asked)
    return hidden

  def block_and_cache(
    self, canvas: jax.Array, start: jax.Array, width: int
  ) -> tuple[jax.Array, Any]:
    """Computes what `block` does, and a cache of whole rows for `part`."""
    hidden, cache = self.model.hidden_and_cache(
      self.params, *self._rows(canvas))
    return columns(hidden, self._twice(start), width), cache

  def part(
    self, canvas: jax.Array, start: jax.Array, width: int, cache: Any
  ) -> jax.Array:
    """Computes what `block` does, with all other columns taken from `cache`.

    An approximation: keys and values of the other columns are those of the
    canvas that the cache was made from.
    """
    hidden: jax.Array = self.model.hidden_of_part(
      self.params, *self._rows(canvas), cache, self._twice(start), width)
    return hidden

  @jax.named_scope("rollout/unembed")
  def logits(self, hidden: jax.Array) -> jax.Array:
    """Computes logits of hidden states, guided if there is guidance.

    Only ever of one block: logits of a whole canvas of a batch would not fit.

    Args:
      hidden: [b or 2b, w, d].

    Returns:
      [b, w, v] fp32; -inf for the mask token.
    """
    logits = unembedded(self.model, self.params, hidden)
    if self.cfg_scale:
      guided, unguided = jnp.split(logits, 2)
      logits = unguided + (self.cfg_scale + 1) * (guided - unguided)
    return without_mask(logits, self.model.mask_id)


def columns(x: jax.Array, start: jax.Array, width: int) -> jax.Array:
  """Takes [b, width, ...] of x [b, t, ...], from columns [b] on."""
  return jax.vmap(
    lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, width))(x, start)


def unembedded(model: Any, params: Any, hidden: jax.Array) -> jax.Array:
  """Computes logits [b, w, v] fp32 of hidden states [b, w, d]."""
  return jnp.einsum(
    "btd,dv->btv", hidden, model.unembed(params),
    preferred_element_type=jnp.float32)


def without_mask(logits: jax.Array, mask_id: int) -> jax.Array:
  """Sets logits [b, w, v] of the mask token to -inf."""
  # A committed mask token would be denoised again, forever.
  return logits.at[:, :, mask_id].set(-jnp.inf)


def stored(
  cache: layers.Cache, new: layers.Cache, start: jax.Array
) -> layers.Cache:
  """Writes [layers, b, size, g, k] into rows of a cache, from columns [b] on.

  Where these are none of the cache's, nothing is written.
  """
  def put(cache: jax.Array, new: jax.Array, i: jax.Array, at: jax.Array
          ) -> jax.Array:
    new = jax.lax.dynamic_slice_in_dim(new, i, 1, 1)
    where = (0, i, at, 0, 0)
    old = jax.lax.dynamic_slice(cache, where, new.shape)
    return jax.lax.dynamic_update_slice(
      cache, jnp.where(at < cache.shape[2], new, old), where)

  def on_device(
    cache: layers.Cache, new: layers.Cache, start: jax.Array
  ) -> layers.Cache:
    # Row by row, which is in place. A scatter is not: TPUs lay its operand out
    # in another order than attention does, and would copy the whole cache there
    # and back. So they do with what a loop carries.
    written: layers.Cache = jax.lax.fori_loop(
      0, len(start), lambda i, cache: jax.tree.map(
        lambda x, y: put(x, y, i, start[i]), cache, new), cache,
      unroll=len(start) <= UNROLLED)
    return written

  rows = mesh_lib.BATCH if mesh_lib.batch_parts(len(start)) > 1 else None
  tensor = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
  heads = None if cache[0].shape[3] % tensor else "tensor"
  spec = jax.P(None, rows, None, heads)
  written: layers.Cache = mesh_lib.on_each_device(
    on_device, (spec, spec, jax.P(rows)), spec)(cache, new, start)
  return written
