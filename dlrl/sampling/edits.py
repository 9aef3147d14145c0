"""Edits: tokens of a block that replace others after these were committed.

LLaDA2.1 (arXiv 2602.08676, Eq. 1-3) decodes a block by two rules at once, of
the same forward pass: masks become tokens where the prediction is confident
(mask to token, `remasking`), and tokens become others where the prediction
differs and is confident (token to token, here). Once no mask is left, passes
go on until one edits nothing, or for `sampler.max_post_edit` of them. Earlier
blocks stay as they are, and so do their keys and values.

    mode           threshold   edit_threshold
    Q, quality     0.7         0.5
    S, speed       0.5         0
    code default   0.95        0.9
"""

import jax
import jax.numpy as jnp

from dlrl import config


def on(sampler: config.SamplerConfig) -> bool:
  """Whether committed tokens may be replaced: no probability is above 1."""
  return sampler.edit_threshold < 1


def most_passes(sampler: config.SamplerConfig) -> int:
  """The most passes of a block after the one that filled its last mask."""
  return sampler.max_post_edit if on(sampler) else 0


def confident(
  ids: jax.Array, token: jax.Array, confidence: jax.Array, present: jax.Array,
  threshold: float,
) -> jax.Array:
  """Selects the tokens that are replaced.

  Args:
    ids: [..., w] int, the block.
    token: [..., w] int, the predictions, from the block as it is.
    confidence: [..., w] fp32, their probabilities.
    present: [..., w] bool, the tokens that may be replaced: those of the
      completion that are no masks.
    threshold: probability that a prediction must exceed, in [0, 1).

  Returns:
    [..., w] bool.
  """
  return present & (token != ids) & (confidence > threshold)


def finished(
  masked: jax.Array, filled: jax.Array, edited: jax.Array, passes: jax.Array,
  most: int,
) -> jax.Array:
  """Tells which blocks a pass has finished.

  Args:
    masked: [..., w] bool, the masks that the pass saw.
    filled: [..., w] bool, those that it replaced.
    edited: [..., w] bool, the tokens that it replaced.
    passes: [...] int, passes of the block that saw no mask, with this one.
    most: of them, from `most_passes`.

  Returns:
    [...] bool.
  """
  settled = ~jnp.any(masked | edited, -1)
  return ~jnp.any(masked & ~filled, -1) & (settled | (passes >= most))
