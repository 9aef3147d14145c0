"""Prompts of unequal lengths as one array."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_ROUND = 32  # prompts are padded to a multiple: fewer programs to compile


def pad(prompts: Sequence[Sequence[int]]) -> tuple[jax.Array, jax.Array]:
  """Ids [b, p] int32 with zeros on the right, and lengths [b] int32."""
  lengths = [len(prompt) for prompt in prompts]
  width = max(1, -(-max(lengths) // _ROUND)) * _ROUND
  ids = np.zeros((len(prompts), width), np.int32)
  for row, prompt in zip(ids, prompts, strict=True):
    row[:len(prompt)] = prompt
  return jnp.asarray(ids), jnp.asarray(lengths, jnp.int32)
