"""Semi-autoregressive decoding: blocks left to right, any order inside.

Every step predicts all masked tokens of the block, commits the most confident
ones for good and leaves the rest masked. One jitted program serves rollout and
evaluation. Source: LLaDA (arXiv 2502.09992) and its published `generate`.
"""

from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrl import config
from dlrl.diffusion import rows
from dlrl.sampling import remasking


class Decoded(NamedTuple):
  """Completions and how they came about.

  Attributes:
    completion: [b, t] int32, without mask tokens.
    trace: [b, t] int32, the denoising step that committed each token, counted
      from 0 in every row; -1 where the canvas had a token already.
    forwards: scalar int32, forward passes of the batch.
  """

  completion: jax.Array
  trace: jax.Array
  forwards: jax.Array


def decode(
  model: Any,
  params: Any,
  prompt: jax.Array,
  prompt_length: jax.Array,
  keys: jax.Array,
  *,
  sampler: config.Sampler,
  canvas: jax.Array | None = None,
) -> Decoded:
  """Fills the masks of a canvas.

  Args:
    model: has `hidden`, `unembed` and `mask_id`.
    params: of the model.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    keys: [b] one key per row, so that a row's completion depends neither on its
      neighbours nor on the number of hosts; unused at temperature 0.
    sampler: `block_length` divides `gen_length`; the number of blocks divides
      `steps`. Once `fill_after` of a row's masks are filled, one more forward
      pass fills the others, in all blocks (STP's temporal pruning).
    canvas: [b, gen_length] int32; what is not a mask stays as it is and counts
      as committed, so that fewer masks take fewer steps. None: all masks.
  """
  block_length = sampler.block_length
  blocks = sampler.gen_length // block_length
  each, first = divmod(block_length, sampler.steps // blocks)
  unembed = model.unembed(params)
  if canvas is None:
    canvas = jnp.full(
      (prompt.shape[0], sampler.gen_length), model.mask_id, jnp.int32)
  free = jnp.sum(canvas == model.mask_id, -1)
  enough = jnp.ceil(sampler.fill_after * free - 1e-3)  # 1e-3: rounding

  def hidden_of(canvas):
    row = rows.assemble(canvas, prompt, prompt_length)
    return model.hidden(params, *row)

  def predict(hidden, start, index):
    hidden = jax.lax.dynamic_slice_in_dim(hidden, start, block_length, 1)
    return _predict(
      hidden, unembed, model.mask_id, keys, index, sampler.temperature)

  def block_of(array, start):
    return jax.lax.dynamic_slice_in_dim(array, start, block_length, 1)

  def unfinished(canvas):
    """[b], rows that go on step by step."""
    masked = jnp.sum(canvas == model.mask_id, -1)
    return (masked > 0) & (free - masked < enough)

  def step(carry):
    canvas, trace, taken, forwards = carry
    open_ = (canvas == model.mask_id) & unfinished(canvas)[:, None]
    start = jnp.argmax(jnp.any(open_, 0)) // block_length * block_length
    token, confidence = predict(hidden_of(canvas), start, taken)
    masked = block_of(open_, start)
    # As many as if the block's other tokens had been committed by steps.
    committed = jnp.sum(~masked, -1)
    commit = remasking.low_confidence(
      confidence, masked, each + (committed < first * (each + 1)))
    new = jnp.where(commit, token, block_of(canvas, start))
    when = jnp.where(commit, taken[:, None], block_of(trace, start))
    put = jax.lax.dynamic_update_slice_in_dim
    return (put(canvas, new, start, 1), put(trace, when, start, 1),
            taken + jnp.any(masked, -1), forwards + 1)

  none = jnp.zeros_like(free)
  canvas, trace, taken, forwards = jax.lax.while_loop(
    lambda carry: jnp.any(unfinished(carry[0])), step,
    (canvas, jnp.full_like(canvas, -1), none, jnp.int32(0)))
  if sampler.fill_after == 1:
    return Decoded(canvas, trace, forwards)

  hidden = hidden_of(canvas)
  # Blocks have noise of their own: step numbers that no step has used.
  token = jax.lax.map(
    lambda i: predict(hidden, i * block_length, taken + i)[0],
    jnp.arange(blocks))
  token = token.swapaxes(0, 1).reshape(canvas.shape)
  masked = canvas == model.mask_id
  return Decoded(
    jnp.where(masked, token, canvas),
    jnp.where(masked, taken[:, None], trace), forwards + 1)


def _predict(hidden, unembed, mask_id, keys, index, temperature):
  """Tokens [b, t] int32 and their probabilities at temperature 1, fp32."""
  logits = jnp.einsum(
    "btd,dv->btv", hidden, unembed, preferred_element_type=jnp.float32)
  # A committed mask token would be denoised again, for ever.
  logits = logits.at[:, :, mask_id].set(-jnp.inf)
  token = jnp.argmax(
    perturb(logits, keys, index, temperature=temperature), -1)
  picked = jnp.arange(logits.shape[-1])[None, None] == token[..., None]
  confidence = jnp.sum(
    jnp.where(picked, jax.nn.softmax(logits, axis=-1), 0.0), -1)
  return token.astype(jnp.int32), confidence


def perturb(logits, keys, index, *, temperature: float) -> jax.Array:
  """Logits [b, t, v] whose argmax samples softmax(logits / temperature).

  The noise is fp32 Gumbel; in bf16 it would be too coarse to sample the tail.
  `index` [b] is the step of each row.
  """
  if temperature == 0:
    return logits

  def row(key, index, logits):
    noise = jax.random.gumbel(jax.random.fold_in(key, index), logits.shape)
    return logits / temperature + noise

  return jax.vmap(row)(keys, index, logits)
