"""Forward processes: which tokens are masked, with which weight.

A process is a function `(keys [b], maskable [b, t], j, n) -> Draw`, the j-th of
n Monte-Carlo draws for each of b responses. It is a pure function of the keys,
so that draws are regenerated where they are needed, and the current, the old
and the reference policy see the same ones. Every row has a key of its own: what
a row draws does not depend on its neighbours, on micro-batches or on hosts.

A draw's ELBO estimate is `sum_i weight_i * log p(y_i | y_masked, x)`. It is
unbiased for each j if the draw's marginal is right, whatever ties the draws of
one response together.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Draw(NamedTuple):
  """One masked copy of each response.

  Attributes:
    mask: [b, t] bool, the positions replaced by the mask token.
    weight: [b, t] fp32, zero where `mask` is not set.
  """

  mask: jax.Array
  weight: jax.Array


Process = Callable[[jax.Array, jax.Array, jax.Array, int], Draw]

# Below this noise level 1/t is a heavy tail that carries no signal.
MIN_T = 1e-3


def continuous(keys, maskable, j, n) -> Draw:
  """Each token masked with probability t ~ U(MIN_T, 1), weight 1/t.

  LLaDA's pre-training loss and BGPO's Eq. 3-5.
  """
  del n

  def row(key, maskable):
    key_t, key_mask = jax.random.split(jax.random.fold_in(key, j))
    t = jax.random.uniform(key_t, minval=MIN_T)
    mask = maskable & (jax.random.uniform(key_mask, maskable.shape) < t)
    return Draw(mask, jnp.where(mask, 1 / t, 0.0))

  return jax.vmap(row)(keys, maskable)


def exact_k(keys, maskable, j, n) -> Draw:
  """Exactly k ~ U{1..m} of the m maskable tokens, weight m/k.

  LLaDA's likelihood evaluation; less variance than `continuous`, because the
  number of masked tokens is not random given the weight.
  """
  del n

  def row(key, maskable):
    key_k, key_subset = jax.random.split(jax.random.fold_in(key, j))
    m = count(maskable)
    return _subset(key_subset, maskable, _uniform_k(key_k, m), m)

  return jax.vmap(row)(keys, maskable)


def stratified(keys, maskable, j, n) -> Draw:
  """`exact_k` with the n values of k spread evenly over 1..m.

  k_j = (k_0 - 1 + floor(j m / n)) mod m + 1 with one k_0 ~ U{1..m} for all j of
  a response: each k_j is exactly uniform, so every draw is unbiased, and
  together they cover the noise levels. In integers: rounding half to even, as
  the published code does, makes some k more likely than others.
  """

  def row(key, maskable):
    m = count(maskable)
    k_0 = _uniform_k(jax.random.fold_in(key, n), m)
    k = (k_0 - 1 + j * m // n) % m + 1
    return _subset(jax.random.fold_in(key, j), maskable, k, m)

  return jax.vmap(row)(keys, maskable)


def tiled(keys, maskable, j, n) -> Draw:
  """`stratified` with masks that tile the response, one after the other.

  The response's tokens are put on a circle in a random order; draw j masks the
  k_j of them that follow those of draw j - 1. Each mask is a uniformly random
  subset, so every draw is unbiased; together they mask all tokens as often as
  possible equally often, and none of the variance is left that comes from
  masking some more often than others.
  """
  def row(key, maskable):
    m = count(maskable)
    k_0 = _uniform_k(jax.random.fold_in(key, n), m)
    i = jnp.arange(n)
    k = (k_0 - 1 + i * m // n) % m + 1
    start = jnp.sum(jnp.where(i < j, k, 0))
    place = (ranks(jax.random.fold_in(key, n + 1), maskable) - start) % m
    mask = maskable & (place < k[j])
    return Draw(mask, jnp.where(mask, m / k[j], 0.0))

  return jax.vmap(row)(keys, maskable)


def importance(keys, maskable, j, n) -> Draw:
  """`stratified` with k drawn as often as it matters: P(k) ~ 1 / sqrt(k).

  Were tokens' gradients independent, a draw of weight m / k would have a norm
  of sqrt(k) m / k, and the variance of an estimate that draws k with P(k) and
  weighs it by m / k / (m P(k)) is least where P(k) follows that norm. Few
  masked tokens are drawn more often, and weigh less: no draw is an outlier.
  """
  def row(key, maskable):
    k, weight = _important_k(key, maskable, n)
    mask = maskable & (ranks(jax.random.fold_in(key, j), maskable) < k[j])
    return Draw(mask, jnp.where(mask, weight[j], 0.0))

  return jax.vmap(row)(keys, maskable)


def balanced(keys, maskable, j, n) -> Draw:
  """`importance` with the masks of `tiled`.

  Of the estimates here that with the least error for n from 4 on, see
  `benchmarks/gradient_error.py`.
  """
  def row(key, maskable):
    m = count(maskable)
    k, weight = _important_k(key, maskable, n)
    start = jnp.sum(jnp.where(jnp.arange(n) < j, k, 0))
    place = (ranks(jax.random.fold_in(key, n + 1), maskable) - start) % m
    mask = maskable & (place < k[j])
    return Draw(mask, jnp.where(mask, weight[j], 0.0))

  return jax.vmap(row)(keys, maskable)


def complementary(keys, maskable, j, n) -> Draw:
  """Draws 2i and 2i + 1 mask k ~ U{0..m} tokens and the m - k others.

  Weight (m + 1) over the number masked: both are unbiased, and every token is
  predicted once per pair. The values of k are spread evenly over the pairs.
  Source: ESPO (arXiv 2512.03759); n should be even.
  """
  def row(key, maskable):
    m = count(maskable)
    k_0 = jax.random.randint(jax.random.fold_in(key, n), (), 0, m + 1)
    pair, pairs = j // 2, (n + 1) // 2
    k = (k_0 + pair * (m + 1) // pairs) % (m + 1)
    first = ranks(jax.random.fold_in(key, pair), maskable) < k
    mask = maskable & (first ^ (j % 2 == 1))
    masked = jnp.maximum(jnp.where(j % 2 == 1, m - k, k), 1)
    return Draw(mask, jnp.where(mask, (m + 1) / masked, 0.0))

  return jax.vmap(row)(keys, maskable)


def count(maskable):
  """Set positions of a row [t]; at least 1, or an empty row would give 0/0."""
  return jnp.maximum(jnp.sum(maskable), 1)


def _uniform_k(key, m):
  return jax.random.randint(key, (), 1, m + 1)


def ranks(key, maskable):
  """Places of a row's positions [t] in a random order, the maskable first."""
  order = jnp.where(maskable, jax.random.uniform(key, maskable.shape), 2.0)
  return jnp.argsort(jnp.argsort(order))


def _important_k(key, maskable, n):
  """All draws' numbers of masked tokens [n], P(k) ~ 1 / sqrt(k), and weights.

  Spread evenly over the distribution: one uniform number for all of a response.
  """
  m = count(maskable)
  ks = jnp.arange(1, maskable.shape[0] + 1)
  chance = jnp.where(ks <= m, ks**-0.5, 0.0)
  chance = chance / jnp.sum(chance)
  u = jax.random.uniform(jax.random.fold_in(key, n)) + jnp.arange(n) / n
  below = jnp.cumsum(chance)[None] <= (u % 1.0)[:, None]
  k = jnp.minimum(1 + jnp.sum(below, -1), m)  # the sum may round to less than u
  return k, 1 / (k * chance[k - 1])


def _subset(key, maskable, k, m) -> Draw:
  """A uniformly random subset of k maskable positions."""
  mask = maskable & (ranks(key, maskable) < k)
  return Draw(mask, jnp.where(mask, m / k, 0.0))


# Unbiased estimates of the ELBO; `masks.PROCESSES` has the others, too.
PROCESSES: dict[str, Process] = {
  "continuous": continuous,
  "exact_k": exact_k,
  "stratified": stratified,
  "tiled": tiled,
  "importance": importance,
  "balanced": balanced,
  "complementary": complementary,
}
