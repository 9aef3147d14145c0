"""ModelInput `[canvas | prompt | padding]`: the layout the model sees.

Attention is bidirectional, so the order in memory is free. Canvas first puts
every block at a static column, and padding only at the end makes a row's
length describe its attention mask. Positions tell the model the true order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class ModelInput(NamedTuple):
  """What a model takes: ids [b, t+p], positions [b, t+p], lengths [b]."""

  ids: jax.Array
  positions: jax.Array
  lengths: jax.Array


def assemble(
  canvas: jax.Array, prompt: jax.Array, prompt_length: jax.Array
) -> ModelInput:
  """Puts a canvas before its prompt.

  Args:
    canvas: [b, t] int, with or without mask tokens.
    prompt: [b, p] int, padded on the right with anything.
    prompt_length: [b] int in 0..p.
  """
  t, p = canvas.shape[1], prompt.shape[1]
  in_canvas = prompt_length[:, None] + jnp.arange(t)[None]
  in_prompt = jnp.broadcast_to(jnp.arange(p)[None], prompt.shape)
  return ModelInput(
    jnp.concatenate([canvas, prompt], 1),
    jnp.concatenate([in_canvas, in_prompt], 1),
    t + prompt_length,
  )
