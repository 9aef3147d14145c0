"""Remasking rules: which of the predicted tokens are committed at a step.

A rule scores every prediction. The tokens with the highest scores are
committed, all others stay masked. Their number is fixed per step, or it is as
many as pass a threshold on the probability or Fast-dLLM's factor.

Sources: LLaDA (arXiv 2502.09992), Algorithm 5; Dream's published
`generation_utils.py`; Fast-dLLM (arXiv 2505.22618).
"""

import jax
import jax.numpy as jnp


def low_confidence(
  logits: jax.Array, token: jax.Array, noise: jax.Array | None
) -> jax.Array:
  """Scores by the probability of the predicted token.

  All rules have these arguments and return scores [b, t] fp32.

  Args:
    logits: [b, t, v] fp32, the model's at temperature 1.
    token: [b, t] int, predicted from them.
    noise: [b, t] fp32, uniform in [0, 1); only `random` uses it.
  """
  del noise
  # A sum with one term instead of a gather: XLA fuses it with the softmax.
  picked = jnp.arange(logits.shape[-1])[None, None] == token[..., None]
  return jnp.sum(jnp.where(picked, jax.nn.softmax(logits, axis=-1), 0.0), -1)


def random(
  logits: jax.Array, token: jax.Array, noise: jax.Array | None
) -> jax.Array:
  """Scores by `noise`: a uniformly random order."""
  del logits, token
  assert noise is not None
  return noise


def margin(
  logits: jax.Array, token: jax.Array, noise: jax.Array | None
) -> jax.Array:
  """Scores by the largest probability minus the second largest."""
  del token, noise
  top, _ = jax.lax.top_k(logits, 2)
  total = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
  first, second = jnp.split(jnp.exp(top - total), 2, axis=-1)
  return (first - second)[..., 0]


def entropy(
  logits: jax.Array, token: jax.Array, noise: jax.Array | None
) -> jax.Array:
  """Scores by minus the entropy of the distribution, in nats."""
  del token, noise
  logps = jax.nn.log_softmax(logits, axis=-1)
  # The mask token has probability 0 and logp -inf, whose product is NaN.
  return jnp.sum(jnp.where(logps > -jnp.inf, jnp.exp(logps) * logps, 0.0), -1)


def left_to_right(
  logits: jax.Array, token: jax.Array, noise: jax.Array | None
) -> jax.Array:
  """Scores by minus the column: autoregressive order inside a block."""
  del token, noise
  return -jnp.broadcast_to(
    jnp.arange(logits.shape[1], dtype=jnp.float32)[None], logits.shape[:2])


# Values of `sampler.remasking` in the config.
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
  """Selects the `count` masked positions with the highest scores.

  Of equal scores, the leftmost is selected first.

  Args:
    score: [b, t] fp32.
    masked: [b, t] bool, the positions that may be committed.
    count: [b] int; a row with fewer masked positions commits all of them.

  Returns:
    [b, t] bool.
  """
  return masked & (_rank(score, masked) < count[:, None])


def confident(
  confidence: jax.Array, masked: jax.Array, threshold: float
) -> jax.Array:
  """Selects positions of at least `threshold`, and the most confident one.

  The latter makes every step commit a token.

  Args:
    confidence: [b, t] fp32, probabilities.
    masked: [b, t] bool, the positions that may be committed.
    threshold: a probability in (0, 1].

  Returns:
    [b, t] bool.
  """
  first = _rank(confidence, masked) == 0
  return masked & (first | (confidence >= threshold))


def confident_or_leftmost(
  confidence: jax.Array, masked: jax.Array, threshold: float
) -> jax.Array:
  """Selects positions of at least `threshold`; if none, the leftmost one.

  So text is continued from the left where no prediction is confident: the
  forks of ForkGRPO. Arguments and result as `confident`.
  """
  sure = masked & (confidence >= threshold)
  leftmost = masked & (jnp.cumsum(masked, 1) == 1)
  return jnp.where(jnp.any(sure, 1, keepdims=True), sure, leftmost)


# Values of `sampler.fallback` in the config, used with a threshold.
FALLBACKS = {"confident": confident, "leftmost": confident_or_leftmost}


def by_factor(
  confidence: jax.Array, masked: jax.Array, factor: float
) -> jax.Array:
  """Selects the n most confident positions, n as large as `factor` allows.

  The i-th of them must have a confidence of at least 1 - factor / (i + 1): the
  more tokens a step commits at once, the surer each must be (Fast-dLLM, factor-
  based decoding). The first is selected in any case.

  Args:
    confidence: [b, t] fp32, probabilities.
    masked: [b, t] bool, the positions that may be committed.
    factor: positive.

  Returns:
    [b, t] bool.
  """
  rank = _rank(confidence, masked)
  fits = confidence >= 1 - factor / (rank + 2)  # i = rank + 1
  fails = masked & ~fits & (rank > 0)
  n = jnp.min(jnp.where(fails, rank, rank.shape[1]), 1, keepdims=True)
  return masked & (rank < n)


def above_or_highest(
  confidence: jax.Array, masked: jax.Array, threshold: float, count: jax.Array
) -> jax.Array:
  """Selects all above `threshold` if they are `count`, else the `count` best.

  SDAR's dynamic decoding. `count` is at most the number of masked positions,
  so that it never selects others, as the published loop does.

  Args:
    confidence: [b, t] fp32, probabilities.
    masked: [b, t] bool, the positions that may be committed.
    threshold: a probability in (0, 1].
    count: [b] int, at least 1.

  Returns:
    [b, t] bool.
  """
  sure = masked & (confidence > threshold)
  needed = jnp.minimum(count, jnp.sum(masked, 1))
  return jnp.where((jnp.sum(sure, 1) >= needed)[:, None], sure,
                   highest(confidence, masked, count))


def entropy_bounded(
  score: jax.Array, masked: jax.Array, bound: float, count: jax.Array
) -> jax.Array:
  """Selects positions of least entropy that are nearly independent.

  The rule of the EB-Sampler (arXiv 2505.24857), which SDAR's published script
  means to use but fails in: it selects the most positions, by increasing
  entropy, whose entropies but the largest sum to at most `bound`. That sum is
  an upper bound of what the positions tell about each other.

  Args:
    score: [b, t] fp32, minus the entropies, from `entropy`.
    masked: [b, t] bool, the positions that may be committed.
    bound: in nats, not negative.
    count: [b] int, at least 1; at least so many are selected if there are.

  Returns:
    [b, t] bool.
  """
  rank = _rank(score, masked)
  lower = (rank[:, None] < rank[:, :, None]) & masked[:, None]
  before = jnp.sum(jnp.where(lower, -score[:, None], 0.0), -1)
  return masked & ((before <= bound) | (rank < count[:, None]))


# By `sampler.remasking`, how block-diffusion models use `sampler.threshold`: as
# a probability, or as an entropy in nats.
BOUNDS = {"low_confidence": above_or_highest, "entropy": entropy_bounded}


def _rank(score: jax.Array, masked: jax.Array) -> jax.Array:
  """Ranks the masked positions of each row by score, the highest as 0."""
  # Sorted by masked first: a score of -inf or NaN must still come before all
  # that is not masked, or its token would never be committed.
  order = jnp.lexsort((-score, ~masked), axis=1)
  return jnp.argsort(order, axis=1)
