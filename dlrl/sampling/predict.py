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

  Temperature, top-k and top-p decide which token is drawn. Scores and
  confidence are of the model's own distribution, at temperature 1 and of all
  tokens, as in LLaDA's `generate`: an unlikely token that noise made the winner
  still counts as unlikely, and is committed late.

  Args:
    logits: [b, w, v] fp32.
    keys: [b] PRNG keys, one per row; unused if nothing is random.
    index: [b] int, a number that the row's key has not been used with before.
    sampler: temperature, top_k, top_p, remasking and eos are used.
    eos_id: the end-of-sequence token; needed unless `sampler.eos` is "free".

  Returns:
    token: [b, w] int32.
    score: [b, w] fp32; higher ones are committed first.
    confidence: [b, w] fp32, the token's probability.
  """
  logits = allowed(logits, sampler, eos_id)
  kept = logits  # the likeliest token is always kept
  if sampler.temperature:
    kept = filtered(logits, sampler, sampler.temperature)
  token = _argmax(perturb(
    kept, keys, index, temperature=sampler.temperature))
  score, confidence = _scores(logits, token, keys, index, sampler)
  if sampler.eos == "last":
    score = jnp.where(token == eos_id, -jnp.inf, score)
  return token, score, confidence


def allowed(
  logits: jax.Array, sampler: config.SamplerConfig, eos_id: int | None
) -> jax.Array:
  """The logits [b, w, v], -inf for an end-of-text token that is suppressed."""
  if sampler.eos == "suppress":
    logits = logits.at[:, :, eos_id].set(-jnp.inf)
  return logits


def predict_drawn(
  logits: jax.Array, keys: jax.Array, index: jax.Array,
  sampler: config.SamplerConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Samples a token in each column, and scores it by what it is drawn from.

  As in SDAR's sampler, scores and confidence are of the distribution after
  temperature, top-k and top-p. At temperature 0 the likeliest token is taken,
  and they are of the distribution at temperature 1, after top-k and top-p:
  without noise its probability would always be 1.

  Args:
    logits: [b, w, v] fp32.
    keys: [b] PRNG keys, one per row; unused if nothing is random.
    index: [b] int, a number that the row's key has not been used with before.
    sampler: temperature, top_k, top_p and remasking are used.

  Returns:
    As `predict`.
  """
  temperature = sampler.temperature or 1.0
  kept = filtered(logits, sampler, temperature)
  token = _argmax(perturb(
    kept, keys, index, temperature=sampler.temperature))
  return token, *_scores(kept / temperature, token, keys, index, sampler)


def candidates(
  logits: jax.Array, sampler: config.SamplerConfig, n: int
) -> jax.Array:
  """The ids that a token is drawn from, [b, w, n] int32.

  Args:
    logits: [b, w, v] fp32, see `allowed`.
    sampler: temperature, top_k and top_p are used.
    n: how many there are at most; of more, which may be equally likely, the
      first n.

  Returns:
    The likeliest first, -1 where there are less than n.
  """
  kept, ids = jax.lax.top_k(
    filtered(logits, sampler, sampler.temperature or 1.0), n)
  return jnp.where(kept > -jnp.inf, ids, -1)


def _scores(
  logits: jax.Array, token: jax.Array, keys: jax.Array, index: jax.Array,
  sampler: config.SamplerConfig,
) -> tuple[jax.Array, jax.Array]:
  """Returns score and confidence [b, w] of tokens under `logits`."""
  noise = None
  if sampler.remasking == "random":
    # The order must not depend on the tokens drawn.
    noise = jax.vmap(lambda key, i: jax.random.uniform(jax.random.fold_in(
      keys_lib.of(key, keys_lib.Sample.ORDER), i), token.shape[1:]))(
      keys, index)
  return (remasking.RULES[sampler.remasking](logits, token, noise),
          remasking.low_confidence(logits, token, None))


def _argmax(x: jax.Array) -> jax.Array:
  """Computes `jnp.argmax(x, -1)` as int32, the first of equal maxima."""
  # XLA's own argmax is slow on CPUs; two plain reductions are not.
  last = x.shape[-1] - 1  # for a column with a NaN, which equals no maximum
  place = jnp.arange(last + 1, dtype=jnp.int32)[None, None]
  return jnp.min(
    jnp.where(x == jnp.max(x, -1, keepdims=True), place, last), -1)


def filtered(
  logits: jax.Array, sampler: config.SamplerConfig, temperature: float
) -> jax.Array:
  """Keeps the tokens that top-k and then top-p leave to be drawn.

  Top-k keeps the `sampler.top_k` likeliest tokens. Of these, top-p keeps the
  smallest set of likeliest ones with `sampler.top_p` in total. It counts
  probabilities at the temperature, as Hugging Face's and Dream's samplers do,
  where the temperature is applied first. The token that crosses the threshold
  is kept, so the likeliest always is. Of either, tokens as likely as the last
  one kept are kept, too.

  Args:
    logits: [b, w, v] fp32, not yet divided by the temperature.
    sampler: top_k and top_p are used.
    temperature: positive.

  Returns:
    The logits, -inf for all other tokens.
  """
  if 0 < sampler.top_k < logits.shape[-1]:
    least = jax.lax.top_k(logits, sampler.top_k)[0][..., -1:]
    logits = jnp.where(logits >= least, logits, -jnp.inf)
  if sampler.top_p == 1:
    return logits
  probs = jax.nn.softmax(logits / temperature, axis=-1)
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
