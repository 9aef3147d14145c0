"""Remasking rules: which of the predicted tokens are committed at a step.

A rule scores every prediction; the tokens with the highest scores are
committed, all others stay masked. How many: a number per step, or as many as a
threshold on the probability or Fast-dLLM's factor lets through. Sources: LLaDA
(arXiv 2502.09992), Algorithm 5, Dream's published `generation_utils.py`, and
Fast-dLLM (arXiv 2505.22618).
"""

import jax
import jax.numpy as jnp


def low_confidence(logits, token, noise) -> jax.Array:
  """The probability of the predicted token, [b, t] fp32 in [0, 1].

  Args of all rules:
    logits: [b, t, v] fp32, of the model at temperature 1.
    token: [b, t] int, predicted from them.
    noise: [b, t] fp32 in [0, 1), random.
  """
  del noise
  picked = jnp.arange(logits.shape[-1])[None, None] == token[..., None]
  return jnp.sum(jnp.where(picked, jax.nn.softmax(logits, axis=-1), 0.0), -1)


def random(logits, token, noise) -> jax.Array:
  """Any order."""
  del logits, token
  return noise


def margin(logits, token, noise) -> jax.Array:
  """The lead of the likeliest token's probability over the second's."""
  del token, noise
  top, _ = jax.lax.top_k(logits, 2)
  total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  first, second = jnp.split(jnp.exp(top - total), 2, axis=-1)
  return (first - second)[..., 0]


def entropy(logits, token, noise) -> jax.Array:
  """Minus the entropy of the prediction, in nats."""
  del token, noise
  logps = jax.nn.log_softmax(logits, axis=-1)
  # The mask token's probability is 0, its log -inf.
  return jnp.sum(jnp.where(logps > -jnp.inf, jnp.exp(logps) * logps, 0.0), -1)


def left_to_right(logits, token, noise) -> jax.Array:
  """Autoregressive order inside a block."""
  del token, noise
  return -jnp.broadcast_to(
    jnp.arange(logits.shape[1], dtype=jnp.float32)[None], logits.shape[:2])


# Of (logits, token, noise); config's `sampler.remasking`.
RULES = {
  "low_confidence": low_confidence,
  "random": random,
  "margin": margin,
  "entropy": entropy,
  "left_to_right": left_to_right,
}


def highest(
  score: jax.Array, masked: jax.Array, count: jax.Array
) -> jax.Array:
  """The `count` masked positions with the highest score, [b, t] bool.

  All others stay masked. Ties go to the left.

  Args:
    score: [b, t] fp32.
    masked: [b, t] bool, the positions that may be committed.
    count: [b] int; rows with fewer masked positions commit all of them.
  """
  return masked & (_rank(score, masked) < count[:, None])


def confident(
  confidence: jax.Array, masked: jax.Array, threshold: float
) -> jax.Array:
  """Those of at least `threshold`, and the most confident one, [b, t] bool.

  Arguments as of `highest`; the threshold is a probability in (0, 1].
  """
  first = _rank(confidence, masked) == 0
  return masked & (first | (confidence >= threshold))


def confident_or_leftmost(
  confidence: jax.Array, masked: jax.Array, threshold: float
) -> jax.Array:
  """Those of at least `threshold`, or the leftmost if there is none.

  Where no prediction is sure the text is continued: ForkGRPO's forks.
  Arguments as of `confident`.
  """
  sure = masked & (confidence >= threshold)
  leftmost = masked & (jnp.cumsum(masked, 1) == 1)
  return jnp.where(jnp.any(sure, 1, keepdims=True), sure, leftmost)


# What is committed at a threshold; config's `sampler.fallback`.
FALLBACKS = {"confident": confident, "leftmost": confident_or_leftmost}


def by_factor(
  confidence: jax.Array, masked: jax.Array, factor: float
) -> jax.Array:
  """The most confident ones, n of which are at least 1 - factor / (n + 1).

  n is the longest such run from the most confident on, and at least 1: the more
  tokens at once, the surer each must be. Arguments as of `highest`.
  """
  rank = _rank(confidence, masked)
  fits = confidence >= 1 - factor / (rank + 2)
  fails = masked & ~fits & (rank > 0)
  n = jnp.min(jnp.where(fails, rank, rank.shape[1]), 1, keepdims=True)
  return masked & (rank < n)


def _rank(score: jax.Array, masked: jax.Array) -> jax.Array:
  """Places of the masked positions, from 0 for the highest score."""
  # Two keys: a score of -inf or NaN must not come after what is not masked, or
  # its token would never be committed.
  order = jnp.lexsort((-score, ~masked), axis=1)
  return jnp.argsort(order, axis=1)
