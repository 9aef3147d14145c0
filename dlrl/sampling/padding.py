"""Prompts of unequal lengths as one array."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_ROUND = 32  # widths are multiples of it, so that fewer programs are compiled


def pad(prompts: Sequence[Sequence[int]]) -> tuple[jax.Array, jax.Array]:
  """Pads prompts on the right with zeros, which nothing attends to.

  Args:
    prompts: b >= 1 lists of token ids.

  Returns:
    Ids [b, p] int32, p a multiple of 32, and lengths [b] int32.
  """
  lengths = [len(prompt) for prompt in prompts]
  width = max(1, -(-max(lengths) // _ROUND)) * _ROUND
  ids = np.zeros((len(prompts), width), np.int32)
  for row, prompt in zip(ids, prompts, strict=True):
    row[:len(prompt)] = prompt
  return jnp.asarray(ids), jnp.asarray(lengths, jnp.int32)
