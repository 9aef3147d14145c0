"""Predicts a token for every column, and how confident the model is of it."""

import jax
import jax.numpy as jnp

from dlrl import config
from dlrl import keys as keys_lib
from dlrl.sampling import remasking

EOS = ("free", "suppress", "last", "stop")  # values of `sampler.eos`


def predict(
  logits: jax.Array, keys: jax.Array, index: jax.Array,
  sampler: config.SamplerConfig, eos_id: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Samples a token in each column, and scores it by the remasking rule.

  Temperature and top-p decide which token is drawn. Scores and confidence are
  of the model's own distribution, at temperature 1 and without top-p, as in
  LLaDA's `generate`: an unlikely token that noise made the winner still counts
  as unlikely, and is committed late.

  Args:
    logits: [b, w, v] fp32.
    keys: [b] PRNG keys, one per row; unused if nothing is random.
    index: [b] int, a number that the row's key has not been used with before.
    sampler: temperature, top_p, remasking and eos are used.
    eos_id: the end-of-sequence token; needed unless `sampler.eos` is "free".

  Returns:
    token: [b, w] int32.
    score: [b, w] fp32; higher ones are committed first.
    confidence: [b, w] fp32, the token's probability.
  """
  if sampler.eos == "suppress":
    logits = logits.at[:, :, eos_id].set(-jnp.inf)
  token = _argmax(perturb(
    top_p(logits, sampler), keys, index, temperature=sampler.temperature))
  confidence = remasking.low_confidence(logits, token, None)
  noise = None
  if sampler.remasking == "random":
    # The order must not depend on the tokens drawn.
    noise = jax.vmap(lambda key, i: jax.random.uniform(jax.random.fold_in(
      keys_lib.of(key, keys_lib.Sample.ORDER), i), token.shape[1:]))(
      keys, index)
  score = remasking.RULES[sampler.remasking](logits, token, noise)
  if sampler.eos == "last":
    score = jnp.where(token == eos_id, -jnp.inf, score)
  return token, score, confidence


def _argmax(x: jax.Array) -> jax.Array:
  """Computes `jnp.argmax(x, -1)` as int32, the first of equal maxima."""
  # XLA's own argmax is slow on CPUs; two plain reductions are not.
  last = x.shape[-1] - 1  # for a column with a NaN, which equals no maximum
  place = jnp.arange(last + 1, dtype=jnp.int32)[None, None]
  return jnp.min(
    jnp.where(x == jnp.max(x, -1, keepdims=True), place, last), -1)


def top_p(logits: jax.Array, sampler: config.SamplerConfig) -> jax.Array:
  """Keeps the smallest set of likeliest tokens with `sampler.top_p` in total.

  The probabilities are those at `sampler.temperature`, as in Hugging Face's
  and Dream's samplers, where the temperature is applied first. The token that
  crosses the threshold is kept, so the likeliest always is; so are tokens as
  likely as the last one kept.

  Args:
    logits: [b, w, v] fp32, not yet divided by the temperature.
    sampler: temperature and top_p are used.

  Returns:
    The logits, -inf for all other tokens.
  """
  if sampler.top_p == 1 or sampler.temperature == 0:
    return logits
  probs = jax.nn.softmax(logits / sampler.temperature, axis=-1)
  # Sorted values are enough: a token is kept if it is as likely as the last one
  # kept, so no permutation [b, w, v] has to be held and undone.
  descending = -jnp.sort(-probs, axis=-1)
  before = jnp.cumsum(descending, axis=-1) - descending
  least = jnp.min(
    jnp.where(before < sampler.top_p, descending, jnp.inf), -1, keepdims=True)
  return jnp.where(probs >= least, logits, -jnp.inf)


def perturb(
  logits: jax.Array, keys: jax.Array, index: jax.Array, *, temperature: float
) -> jax.Array:
  """Adds noise so that the argmax samples softmax(logits / temperature).

  Args:
    logits: [b, w, v] fp32.
    keys: [b] PRNG keys.
    index: [b] int, folded into the row's key.
    temperature: 0 adds none: the argmax is the likeliest token.

  Returns:
    [b, w, v] fp32.
  """
  if temperature == 0:
    return logits

  def row(key: jax.Array, index: jax.Array, logits: jax.Array) -> jax.Array:
    # fp32 Gumbel noise: in bf16 it is too coarse to sample the tail. LLaDA's
    # published code uses fp64 for that reason.
    noise = jax.random.gumbel(jax.random.fold_in(key, index), logits.shape)
    return logits / temperature + noise

  return jax.vmap(row)(keys, index, logits)
