"""How fast a completion was decoded, from its trace."""

from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np


def tokens_per_forward(
  completion: jax.Array, trace: jax.Array, ends: Collection[int]
) -> jax.Array:
  """Tokens of each text divided by the steps that its row took for them.

  The text ends with the first token of `ends`, which counts. Steps are counted
  in the row alone, up to the last one that committed a token of the text: they
  are the forward passes that it takes in a batch of its own; with edits, a last
  one that looks for more and finds none does not count. Tokens that the canvas
  gave took no step and do not count.

  Args:
    completion: [b, t] int32.
    trace: [b, t] int32, see `steps.DecodeState`.
    ends: the tokens that end a text.

  Returns:
    [b] fp32; 0 where the canvas gave the whole text.
  """
  end = jnp.isin(completion, np.array(sorted(ends), np.int32))
  made = (jnp.cumsum(end, 1) - end == 0) & (trace >= 0)
  steps = 1 + jnp.max(jnp.where(made, trace, -1), 1)
  return jnp.sum(made, 1, dtype=jnp.float32) / jnp.maximum(steps, 1)
