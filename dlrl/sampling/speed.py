"""How fast a completion was decoded, from its trace."""

import jax
import jax.numpy as jnp


def tokens_per_forward(
  completion: jax.Array, trace: jax.Array, eos_id: int
) -> jax.Array:
  """Tokens of each text divided by the steps that its row took for them.

  The text ends with its first end-of-text token, which counts. Steps are
  counted in the row alone, up to the one that committed the last token of the
  text: they are the forward passes that it takes in a batch of its own. Tokens
  that the canvas gave took no step and do not count.

  Args:
    completion: [b, t] int32.
    trace: [b, t] int32, see `steps.DecodeState`.
    eos_id: the end-of-text token.

  Returns:
    [b] fp32; 0 where the canvas gave the whole text.
  """
  end = completion == eos_id
  made = (jnp.cumsum(end, 1) - end == 0) & (trace >= 0)
  steps = 1 + jnp.max(jnp.where(made, trace, -1), 1)
  return jnp.sum(made, 1, dtype=jnp.float32) / jnp.maximum(steps, 1)
