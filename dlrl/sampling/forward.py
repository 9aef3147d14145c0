"""What a decoder asks of the model: hidden states of a canvas, and logits.

With classifier-free guidance every row is computed twice, the second time with
a prompt of masks, and the logits are extrapolated away from the second's.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from dlrl.diffusion import model_input


@flax.struct.dataclass
class Forward:
  """The model at its parameters and prompts; b rows in, b or 2b computed.

  Attributes:
    model: has `hidden`, `unembed`, `mask_id`; with a cache also
      `hidden_and_cache`, `hidden_of_part`.
    params: of the model.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    cfg_scale: of the guidance; 0 is none. LLaDA's: the logits are unguided +
      (cfg_scale + 1) (guided - unguided).
  """

  model: Any = flax.struct.field(pytree_node=False)
  params: Any
  prompt: jax.Array
  prompt_length: jax.Array
  cfg_scale: float = flax.struct.field(pytree_node=False)

  def _rows(self, canvas: jax.Array) -> model_input.ModelInput:
    prompt, length = self.prompt, self.prompt_length
    if self.cfg_scale:
      canvas, length = (jnp.concatenate([x, x]) for x in (canvas, length))
      prompt = jnp.concatenate(
        [prompt, jnp.full_like(prompt, self.model.mask_id)])
    return model_input.assemble(canvas, prompt, length)

  def block(self, canvas: jax.Array, start, width: int) -> jax.Array:
    """Hidden states [b or 2b, width, d] of a canvas's columns from `start` on.
    """
    row = self._rows(canvas)
    columns = jnp.broadcast_to(
      start + jnp.arange(width), (row.ids.shape[0], width))
    return self.model.hidden(self.params, *row, columns)

  def whole_and_cache(self, canvas: jax.Array) -> tuple[jax.Array, Any]:
    """Of the whole canvas, [b or 2b, t, d]; canvas's and prompt's cache."""
    hidden, cache = self.model.hidden_and_cache(
      self.params, *self._rows(canvas))
    return hidden[:, : canvas.shape[1]], cache

  def part(self, canvas: jax.Array, start, width: int, cache) -> jax.Array:
    """Hidden states [b or 2b, width, d] of the columns from `start` on."""
    return self.model.hidden_of_part(
      self.params, *self._rows(canvas), cache, start, width)

  @jax.named_scope("rollout/unembed")
  def logits(self, hidden: jax.Array) -> jax.Array:
    """Logits [b, w, v] fp32 of hidden states of w columns; not for the mask."""
    logits = jnp.einsum(
      "btd,dv->btv", hidden, self.model.unembed(self.params),
      preferred_element_type=jnp.float32)
    if self.cfg_scale:
      guided, unguided = jnp.split(logits, 2)
      logits = unguided + (self.cfg_scale + 1) * (guided - unguided)
    # A committed mask token would be denoised again, for ever.
    return logits.at[:, :, self.model.mask_id].set(-jnp.inf)
