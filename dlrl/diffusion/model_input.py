"""ModelInput `[canvas | prompt | padding]`: the layout the model sees.

Attention is bidirectional, so the order in memory is free. With the canvas
first, every block starts at a static column; with padding only at the end, a
row's length describes its attention mask. Positions tell the model the true
order, prompt before canvas.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class ModelInput(NamedTuple):
  """Arguments of a model.

  Attributes:
    ids: [b, t + p] int, canvas and prompt.
    positions: [b, t + p] int, of the tokens in the true order.
    lengths: [b] int, canvas plus prompt without padding.
  """

  ids: jax.Array
  positions: jax.Array
  lengths: jax.Array


def assemble(
  canvas: jax.Array, prompt: jax.Array, prompt_length: jax.Array
) -> ModelInput:
  """Puts a canvas before its prompt.

  Args:
    canvas: [b, t] int, with or without mask tokens.
    prompt: [b, p] int, padded on the right with any tokens.
    prompt_length: [b] int in 0..p.
  """
  t, p = canvas.shape[1], prompt.shape[1]
  start = prompt_length[:, None]
  in_canvas = start + jnp.arange(t, dtype=start.dtype)[None]
  # From `start`, for its sharding where the mesh is Explicit.
  in_prompt = jnp.zeros_like(start) + jnp.arange(p, dtype=start.dtype)[None]
  return ModelInput(
    jnp.concatenate([canvas, prompt], 1),
    jnp.concatenate([in_canvas, in_prompt], 1), t + prompt_length)
