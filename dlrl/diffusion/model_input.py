"""ModelInput `[canvas | prompt | padding]`: the layout the model sees.

Attention is bidirectional, so the order in memory is free. With the canvas
first, every block starts at a static column; with padding only at the end, a
row's length describes its attention mask. Positions tell the model the true
order, prompt before canvas.

Block-diffusion models see whole blocks in ordinary order instead.
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


def joined(
  canvas: jax.Array, prompt: jax.Array, prompt_length: jax.Array
) -> ModelInput:
  """Puts a canvas behind its prompt: rows in ordinary order.

  Args:
    canvas: [b, t] int.
    prompt: [b, p] int, padded on the right with any tokens.
    prompt_length: [b] int in 0..p.

  Returns:
    ids and positions [b, p + t], padded at the end; lengths [b].
  """
  t = canvas.shape[1]
  ids = _behind(canvas, prompt, prompt_length, t)
  return ModelInput(
    ids, jnp.broadcast_to(jnp.arange(ids.shape[1]), ids.shape),
    prompt_length + t)


def blocks_of(t: int, block_length: int) -> int:
  """The blocks that t tokens touch at most, wherever the first one is."""
  return (t + 2 * block_length - 2) // block_length


def blocks(
  canvas: jax.Array, prompt: jax.Array, prompt_length: jax.Array,
  block_length: int,
) -> ModelInput:
  """Puts a canvas on its blocks, with the prompt tokens in the first of them.

  Blocks are counted from the row's first token. Whole blocks of the prompt are
  left out.

  Args:
    canvas: [b, t] int, with or without mask tokens.
    prompt: [b, p] int, padded on the right with any tokens.
    prompt_length: [b] int in 0..p.
    block_length: tokens per block.

  Returns:
    ids and positions [b, w] of whole blocks, w = `blocks_of(t)` blocks; what
    follows the canvas is padding. lengths [b]: prompt plus canvas.
  """
  t = canvas.shape[1]
  width = blocks_of(t, block_length) * block_length
  start = prompt_length // block_length * block_length
  positions = start[:, None] + jnp.arange(width, dtype=start.dtype)[None]
  whole = _behind(canvas, prompt, prompt_length, width)
  ids = jax.vmap(lambda row, at: jax.lax.dynamic_slice(
    row, (at,), (width,)))(whole, start)
  return ModelInput(ids, positions, prompt_length + t)


def _behind(
  canvas: jax.Array, prompt: jax.Array, prompt_length: jax.Array, room: int
) -> jax.Array:
  """Writes a canvas over a prompt's padding and `room` more columns."""
  rows = jnp.concatenate(
    [prompt, jnp.zeros((len(prompt), room), prompt.dtype)], 1)
  written: jax.Array = jax.vmap(
    lambda row, canvas, at: jax.lax.dynamic_update_slice(
      row, canvas.astype(row.dtype), (at,)))(rows, canvas, prompt_length)
  return written


def canvas_of(
  x: jax.Array, prompt_length: jax.Array, block_length: int, t: int
) -> jax.Array:
  """Takes the canvas's t columns out of those of its blocks.

  Args:
    x: [b, w, ...], in the columns of `blocks`.
    prompt_length: [b] int.
    block_length: tokens per block.
    t: columns of the canvas.
  """
  return jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, t))(
    x, prompt_length % block_length)


def before(positions: jax.Array, lengths: jax.Array) -> jax.Array:
  """Finds the column [b, t] of the token before each; of the first, its own.

  Both in ordinary order and canvas first, the token before is one column to the
  left. The exception is column 0 of a row that starts with its canvas: the end
  of the prompt comes before it, in the last live column.
  """
  column = jnp.arange(positions.shape[1])[None]
  left = jnp.where(column == 0, lengths[:, None] - 1, column - 1)
  return jnp.where(positions == 0, column, left)
