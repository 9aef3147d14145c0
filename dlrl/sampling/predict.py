"""A token for every masked column, and how sure the model is of it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrl import config
from dlrl.sampling import remasking

EOS = ("free", "suppress", "last", "stop")


class Prediction(NamedTuple):
  """Tokens [b, w] int32, the rule's scores [b, w], and probabilities [b, w].

  The probabilities are the model's, at temperature 1.
  """

  token: jax.Array
  score: jax.Array
  confidence: jax.Array


def predict(
  logits: jax.Array, keys: jax.Array, index: jax.Array,
  sampler: config.SamplerConfig, eos_id: int | None,
) -> Prediction:
  """Samples each column from its logits.

  Args:
    logits: [b, w, v] fp32.
    keys: [b] one key per row; unused if nothing is random.
    index: [b] int, a number for each row that it has not used before.
    sampler: its temperature, top_p, remasking and eos.
    eos_id: of the end of a text, for the options of `sampler.eos`.
  """
  if sampler.eos == "suppress":
    logits = logits.at[:, :, eos_id].set(-jnp.inf)
  token = _argmax(perturb(
    top_p(logits, sampler), keys, index, temperature=sampler.temperature))
  confidence = remasking.low_confidence(logits, token, None)
  noise = None
  if sampler.remasking == "random":
    noise = jax.vmap(lambda key, i: jax.random.uniform(
      jax.random.fold_in(jax.random.fold_in(key, i), 1), token.shape[1:])
    )(keys, index)
  score = remasking.RULES[sampler.remasking](logits, token, noise)
  if sampler.eos == "last":
    score = jnp.where(token == eos_id, -jnp.inf, score)
  return Prediction(token, score, confidence)


def _argmax(x: jax.Array) -> jax.Array:
  """`jnp.argmax(x, -1)` int32; XLA's own is slow on CPUs."""
  last = x.shape[-1] - 1  # if no place has the maximum, as there is a NaN
  place = jnp.arange(last + 1, dtype=jnp.int32)[None, None]
  return jnp.min(
    jnp.where(x == jnp.max(x, -1, keepdims=True), place, last), -1)


def top_p(logits: jax.Array, sampler: config.SamplerConfig) -> jax.Array:
  """Logits of the likeliest tokens that together have `sampler.top_p`.

  At the sampler's temperature; the others are -inf. The likeliest always stays.
  """
  if sampler.top_p == 1 or sampler.temperature == 0:
    return logits
  probs = jax.nn.softmax(logits / sampler.temperature, axis=-1)
  descending = -jnp.sort(-probs, axis=-1)
  before = jnp.cumsum(descending, axis=-1) - descending
  least = jnp.min(
    jnp.where(before < sampler.top_p, descending, jnp.inf), -1, keepdims=True)
  return jnp.where(probs >= least, logits, -jnp.inf)


def perturb(logits, keys, index, *, temperature: float) -> jax.Array:
  """Logits [b, t, v] whose argmax samples softmax(logits / temperature).

  The noise is fp32 Gumbel; in bf16 it would be too coarse to sample the tail.
  `index` [b] is the step of each row.
  """
  if temperature == 0:
    return logits

  def row(key, index, logits):
    noise = jax.random.gumbel(jax.random.fold_in(key, index), logits.shape)
    return logits / temperature + noise

  return jax.vmap(row)(keys, index, logits)
