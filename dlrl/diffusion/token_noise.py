"""Noise on visible tokens, from which a model learns to edit (T2T).

A draw of a forward process masks tokens. Here some of those that it leaves are
replaced by random other tokens, and are predicted as well (token to token), in
the same pass as the masks (mask to token).

Source: the report of LLaDA2.1 (arXiv 2602.08676) says that it trains both in
one loss, on tokens replaced at random. It does not say how many tokens, how
much they weigh, and what they are replaced by. These are choices of ours: each
visible token independently, at one rate; a weight of 1, that of a token where
all are masked; all other tokens but the mask, equally likely. So is the noise
in learning by EBPO, for which the report states masks alone.
"""

import jax
import jax.numpy as jnp

from dlrl import keys as keys_lib
from dlrl import strict
from dlrl.diffusion.forward_process import Draw
from dlrl.diffusion.forward_process import uniform


def replaced(
  keys: jax.Array, completion: jax.Array, visible: jax.Array,
  j: int | jax.Array, *, rate: float, mask_id: int, vocab_size: int,
) -> tuple[jax.Array, jax.Array]:
  """The tokens that draw j replaces, and by what.

  Args:
    keys: [b], the keys of the draws.
    completion: [b, t] int, without mask tokens.
    visible: [b, t] bool, the tokens that the draw does not mask and that exist.
    j: the draw.
    rate: probability with which each of them is replaced.
    mask_id: the mask token.
    vocab_size: number of ids, at least 3.

  Returns:
    [b, t] bool, and [b, t] int32: ids in 0..vocab_size - 1, each equally likely
    but the mask and the token that is there, which never are.
  """
  def row(key: jax.Array, token: jax.Array, visible: jax.Array
          ) -> tuple[jax.Array, jax.Array]:
    key = jax.random.fold_in(keys_lib.of(key, keys_lib.Draws.TOKENS), j)
    which, what = jax.random.split(key)
    chosen = visible & (uniform(which, token.shape) < rate)
    # Of the ids without these two, in their order.
    other = jax.random.randint(
      what, token.shape, 0, vocab_size - 2, jnp.int32)
    for left_out in (
        jnp.minimum(token, mask_id), jnp.maximum(token, mask_id)):
      other = jnp.where(other >= left_out, other + 1, other)
    return chosen, other

  found: tuple[jax.Array, jax.Array] = jax.vmap(row)(
    keys, completion.astype(jnp.int32), visible)
  return found


def predicted(draw: Draw, chosen: jax.Array) -> Draw:
  """The draw that also predicts the tokens [b, t] bool that were replaced."""
  return Draw(draw.mask | chosen, jnp.where(chosen, 1.0, draw.weight))


def check(
  field: str, rate: float, block_length: int, problems: strict.Problems
) -> None:
  """Adds a rate other than 0 if the model does not edit.

  Args:
    field: the setting.
    rate: its value.
    block_length: that of the model; 0: it has full attention.
    problems: where errors go.
  """
  problems.require(
    not rate or block_length > 0, field, rate,
    "must be 0: only models with blocks edit tokens")
