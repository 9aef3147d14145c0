"""Semi-autoregressive decoding: blocks left to right, any order inside.

Every step predicts all masked tokens of the block, commits the most confident
ones for good and leaves the rest masked. One jitted program serves rollout and
evaluation. Source: LLaDA (arXiv 2502.09992) and its published `generate`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dlrl import config
from dlrl.diffusion import rows
from dlrl.sampling import remasking


def decode(
  model: Any,
  params: Any,
  prompt: jax.Array,
  prompt_length: jax.Array,
  keys: jax.Array,
  *,
  sampler: config.Sampler,
) -> jax.Array:
  """Completions [b, gen_length] int32, without mask tokens.

  Args:
    model: has `hidden`, `unembed` and `mask_id`.
    params: of the model.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    keys: [b] one key per row, so that a row's completion depends neither on its
      neighbours nor on the number of hosts; unused at temperature 0.
    sampler: `block_length` divides `gen_length`; the number of blocks divides
      `steps`.
  """
  block_length = sampler.block_length
  blocks = sampler.gen_length // block_length
  steps = sampler.steps // blocks
  unembed = model.unembed(params)
  each, first = divmod(block_length, steps)

  def step(canvas, index):
    block, s = index // steps, index % steps
    start = block * block_length
    row = rows.assemble(canvas, prompt, prompt_length)
    hidden = model.hidden(params, *row)
    hidden = jax.lax.dynamic_slice_in_dim(hidden, start, block_length, 1)
    logits = jnp.einsum(
      "btd,dv->btv", hidden, unembed, preferred_element_type=jnp.float32)
    # A committed mask token would be denoised again, for ever.
    logits = logits.at[:, :, model.mask_id].set(-jnp.inf)
    token = jnp.argmax(
      perturb(logits, keys, index, temperature=sampler.temperature), -1)
    picked = jnp.arange(logits.shape[-1])[None, None] == token[..., None]
    confidence = jnp.sum(
      jnp.where(picked, jax.nn.softmax(logits, axis=-1), 0.0), -1)

    old = jax.lax.dynamic_slice_in_dim(canvas, start, block_length, 1)
    commit = remasking.low_confidence(
      confidence, old == model.mask_id, each + (s < first))
    new = jnp.where(commit, token.astype(canvas.dtype), old)
    return jax.lax.dynamic_update_slice_in_dim(canvas, new, start, 1), None

  canvas = jnp.full(
    (prompt.shape[0], sampler.gen_length), model.mask_id, jnp.int32)
  canvas, _ = jax.lax.scan(step, canvas, jnp.arange(sampler.steps))
  return canvas


def perturb(logits, keys, index, *, temperature: float) -> jax.Array:
  """Logits [b, t, v] whose argmax samples softmax(logits / temperature).

  The noise is fp32 Gumbel; in bf16 it would be too coarse to sample the tail.
  """
  if temperature == 0:
    return logits

  def row(key, logits):
    noise = jax.random.gumbel(jax.random.fold_in(key, index), logits.shape)
    return logits / temperature + noise

  return jax.vmap(row)(keys, logits)
