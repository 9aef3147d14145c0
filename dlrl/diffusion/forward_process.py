"""Forward processes: which tokens a Monte-Carlo draw masks, and their weights.

A process is a function `(keys [b], maskable [b, t], j, n) -> Draw` that gives
draw j of n for each of b responses. A draw is a pure function of the keys, so
it is recomputed where it is needed instead of stored, and the trained, the old
and the reference policy are scored on the same masks. Every row has its own
key: its draws do not depend on the other rows, on micro-batches or on hosts.

A draw's ELBO estimate is `sum_i weight_i * log p(y_i | y_masked, x)`. Each
estimate is unbiased if draw j alone has the right distribution; a dependence
between the draws of one response changes only the variance of their mean.
"""

import functools
from collections.abc import Callable
from typing import Any
from typing import NamedTuple
from typing import TypeVar
from typing import cast

import jax
import jax.numpy as jnp

from dlrl import keys as keys_lib


class Draw(NamedTuple):
  """One masked copy of each response.

  Attributes:
    mask: [b, t] bool, the positions replaced by the mask token.
    weight: [b, t] fp32, zero where `mask` is not set.
  """

  mask: jax.Array
  weight: jax.Array


Index = int | jax.Array  # of a draw, 0..n-1
Process = Callable[[jax.Array, jax.Array, Index, int], Draw]
_Process = TypeVar("_Process", bound=Callable[..., Draw])

# Noise levels below this are not drawn: their weights 1/t are a heavy tail, and
# they mask hardly any token.
MIN_T = 1e-3


def by_row(process: _Process) -> _Process:
  """Maps a process written for one row over a batch.

  Args:
    process: (key, maskable [t], j, n, ...) -> Draw of arrays [t].

  Returns:
    The process; it raises ValueError if n is less than 1.
  """
  @functools.wraps(process)
  def batched(
    keys: jax.Array, maskable: jax.Array, j: Index, n: int, **knobs: Any
  ) -> Draw:
    if isinstance(n, int) and n < 1:  # n may be traced as well
      raise ValueError(f"{process.__name__}: n is {n}; draws are 0 to n - 1")
    index = jnp.asarray(j, jnp.int32)
    return jax.vmap(lambda key, row: process(key, row, index, n, **knobs))(
      keys, maskable)

  return cast(_Process, batched)


@by_row
def continuous(
  key: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """Masks each token with probability t ~ U(MIN_T, 1), weight 1/t.

  LLaDA's pre-training loss and BGPO's Eq. 3-5 (arXiv 2510.11683).
  """
  del n
  key_t, key_mask = jax.random.split(jax.random.fold_in(key, j))
  t = uniform(key_t, minval=MIN_T)
  mask = maskable & (uniform(key_mask, maskable.shape) < t)
  return weighted(mask, 1 / t)


@by_row
def exact_k(
  key: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """Masks exactly k ~ U{1..m} of the m maskable tokens, weight m/k.

  LLaDA's likelihood evaluation. Its variance is lower than that of
  `continuous`, because the weight determines the number of masked tokens.
  """
  del n
  key_k, key_subset = jax.random.split(jax.random.fold_in(key, j))
  m = count(maskable)
  k = _uniform_k(key_k, m)
  return subset(key_subset, maskable, k, m / k)


@by_row
def stratified(
  key: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """`exact_k` with the n values of k spread evenly over 1..m.

  k_j = (k_0 - 1 + floor(j m / n)) mod m + 1 with one k_0 ~ U{1..m} per
  response: each k_j is exactly uniform, so every draw is unbiased, and the
  draws together cover the noise levels.
  """
  m = count(maskable)
  k = _spread_k(key, m, j, n)
  return subset(jax.random.fold_in(key, j), maskable, k, m / k)


@by_row
def tiled(key: jax.Array, maskable: jax.Array, j: Index, n: int) -> Draw:
  """`stratified` with masks that tile the response one after the other.

  The maskable tokens are arranged on a circle in random order; draw j masks the
  k_j tokens that follow those of draw j - 1. Each mask is a uniformly random
  subset, so every draw is unbiased. Over the n draws all tokens are masked
  equally often (up to one), which removes the variance that comes from masking
  some tokens more often than others.
  """
  m = count(maskable)
  k = _spread_k(key, m, jnp.arange(n, dtype=jnp.int32), n)
  return _tile(key, maskable, k, m / k[j], j)


@by_row
def importance(
  key: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """`stratified` with k drawn by importance: P(k) ~ 1 / sqrt(k).

  If the gradients of tokens were independent, a draw of weight m / k would have
  a gradient of norm ~ sqrt(k) m / k. Drawing k with P(k) instead of 1 / m
  multiplies the weight by 1 / (m P(k)), and the variance is least where P(k) is
  proportional to that norm. Draws with few masked tokens are more frequent and
  weigh less than in `stratified`, so that no draw is an outlier.
  """
  k, weight = _important_k(key, maskable, n)
  return subset(jax.random.fold_in(key, j), maskable, k[j], weight[j])


@by_row
def balanced(key: jax.Array, maskable: jax.Array, j: Index, n: int) -> Draw:
  """`importance` with the masks of `tiled`.

  The unbiased process with the least gradient error for n >= 4, see
  `benchmarks/gradient_error.py`.
  """
  k, weight = _important_k(key, maskable, n)
  return _tile(key, maskable, k, weight[j], j)


@by_row
def complementary(
  key: jax.Array, maskable: jax.Array, j: Index, n: int
) -> Draw:
  """Draws 2i and 2i + 1 mask k ~ U{0..m} tokens and the m - k others.

  Weight (m + 1) / number of masked tokens: both draws are unbiased, and every
  token is predicted once per pair. The values of k are spread evenly over the
  pairs. n should be even. Source: ESPO (arXiv 2512.03759).
  """
  m = count(maskable)
  k_0 = randint(keys_lib.level(key, n), 0, m + 1)
  pair, pairs = j // 2, (n + 1) // 2
  k = (k_0 + pair * (m + 1) // pairs) % (m + 1)
  first = ranks(jax.random.fold_in(key, pair), maskable) < k
  mask = maskable & (first ^ (j % 2 == 1))
  masked = jnp.maximum(jnp.where(j % 2 == 1, m - k, k), 1)
  return weighted(mask, (m + 1) / masked)


def count(maskable: jax.Array) -> jax.Array:
  """Number of set positions of a row [t]; at least 1, to avoid 0/0."""
  return jnp.maximum(jnp.sum(maskable, dtype=jnp.int32), 1)


# With x64, JAX's random numbers are others by default, and sums and ranks are
# int64. Draws do not depend on it.


def uniform(
  key: jax.Array, shape: tuple[int, ...] = (), minval: float = 0.0,
  maxval: float = 1.0,
) -> jax.Array:
  """Uniform fp32 numbers in [minval, maxval)."""
  return jax.random.uniform(key, shape, jnp.float32, minval, maxval)


def randint(
  key: jax.Array, low: int | jax.Array, high: int | jax.Array
) -> jax.Array:
  """A scalar int32 in low..high-1."""
  return jax.random.randint(key, (), low, high, jnp.int32)


def weighted(mask: jax.Array, weight: float | jax.Array) -> Draw:
  """The draw of a mask whose tokens have this weight."""
  return Draw(mask, jnp.where(mask, jnp.asarray(weight, jnp.float32), 0.0))


def ranks(key: jax.Array, maskable: jax.Array) -> jax.Array:
  """Ranks of a row's positions [t] in a random order, the maskable first."""
  order = jnp.where(maskable, uniform(key, maskable.shape), 2.0)
  # The argsort of an order is its ranks.
  return jnp.argsort(jnp.argsort(order)).astype(jnp.int32)


def subset(
  key: jax.Array, maskable: jax.Array, k: jax.Array, weight: jax.Array
) -> Draw:
  """Masks a uniformly random subset of k maskable positions of a row [t]."""
  return weighted(maskable & (ranks(key, maskable) < k), weight)


def _tile(
  key: jax.Array, maskable: jax.Array, k: jax.Array, weight: jax.Array, j: Index
) -> Draw:
  """Masks the k[j] tokens that follow those of draws 0..j-1 on a circle."""
  n = k.shape[0]
  start = jnp.sum(
    jnp.where(jnp.arange(n, dtype=jnp.int32) < j, k, 0), dtype=jnp.int32)
  place = ranks(keys_lib.circle(key, n), maskable) - start
  return weighted(maskable & (place % count(maskable) < k[j]), weight)


def _uniform_k(key: jax.Array, m: jax.Array) -> jax.Array:
  return randint(key, 1, m + 1)


def _spread_k(key: jax.Array, m: jax.Array, j: Index, n: int) -> jax.Array:
  """`stratified`'s number of masked tokens of draw j."""
  # In integers, because rounding half to even, as in the published code, makes
  # some k more likely than others. Key n: 0..n-1 belong to the draws' masks.
  k_0 = _uniform_k(keys_lib.level(key, n), m)
  return (k_0 - 1 + j * m // n) % m + 1


def _important_k(
  key: jax.Array, maskable: jax.Array, n: int
) -> tuple[jax.Array, jax.Array]:
  """Numbers of masked tokens of all draws [n], P(k) ~ 1 / sqrt(k), and weights.

  One uniform number per response is shifted by j / n and mapped through the
  inverse of the distribution function, which spreads the draws evenly over it.
  """
  m = count(maskable)
  ks = jnp.arange(1, maskable.shape[0] + 1, dtype=jnp.float32)
  chance = jnp.where(ks <= m.astype(jnp.float32), ks**-0.5, 0.0)
  chance = chance / jnp.sum(chance)
  u = uniform(keys_lib.level(key, n))
  u = u + jnp.arange(n, dtype=jnp.float32) / n
  below = jnp.cumsum(chance)[None] <= (u % 1.0)[:, None]
  # At most m: the cumulative sum may end below 1 by rounding, and u above it.
  k = jnp.minimum(1 + jnp.sum(below, -1, dtype=jnp.int32), m)
  return k, 1 / (k.astype(jnp.float32) * chance[k - 1])  # m / k / (m P(k))


# Unbiased estimates of the ELBO; `method_processes.PROCESSES` has all of them.
PROCESSES: dict[str, Process] = {
  "continuous": continuous,
  "exact_k": exact_k,
  "stratified": stratified,
  "tiled": tiled,
  "importance": importance,
  "balanced": balanced,
  "complementary": complementary,
}
