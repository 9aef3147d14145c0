"""Log-probs of given tokens from hidden states, without all the logits."""

import jax
import jax.numpy as jnp


def token_logps(
  hidden: jax.Array,
  unembed: jax.Array,
  targets: jax.Array,
  mask: jax.Array,
  *,
  chunk: int,
) -> jax.Array:
  """fp32 log softmax(hidden @ unembed) at `targets`; zero where not masked.

  Columns are processed `chunk` at a time and their logits are recomputed in the
  backward pass, so that [b, chunk, v] is all that ever exists.

  Args:
    hidden: [b, t, d].
    unembed: [d, v].
    targets: [b, t] int in 0..v-1.
    mask: [b, t] bool.
    chunk: columns at a time; t is padded up to a multiple.

  Returns:
    [b, t] fp32.
  """
  t = targets.shape[1]
  chunk = min(chunk, t)

  @jax.checkpoint
  def columns(_, block):
    hidden, targets, mask = block
    logits = jnp.einsum(
      "btd,dv->btv", hidden, unembed, preferred_element_type=jnp.float32)
    # A select and a sum, not a gather: it fuses, and shards by vocabulary.
    hit = jnp.arange(logits.shape[-1])[None, None] == targets[..., None]
    logit = jnp.sum(jnp.where(hit, logits, 0.0), -1)
    logps = logit - jax.nn.logsumexp(logits, axis=-1)
    return None, jnp.where(mask, logps, 0.0)

  def split(x):
    x = jnp.pad(x, [(0, 0), (0, -t % chunk)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(x.shape[0], -1, chunk, *x.shape[2:])
    return jnp.moveaxis(x, 1, 0)

  _, logps = jax.lax.scan(columns, None, tuple(map(split,
                                                   (hidden, targets, mask))))
  return jnp.moveaxis(logps, 0, 1).reshape(targets.shape[0], -1)[:, :t]
