"""Masks, weights and unbiasedness, against full enumeration.

The oracle is the ELBO as an average over all orders in which the tokens can be
revealed: each order's term is the chain rule, so the average is what every
process must estimate, whatever the table of log-probs.
"""

import collections
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl.diffusion import forward_process

# The maskable positions of a canvas: four of eight, with gaps.
LIVE = np.array([True, False, True, True, False, True, False, False])
T = len(LIVE)
ROWS = 512  # all tests draw ROWS or DRAWS rows, so that few shapes compile
M = int(LIVE.sum())
DRAWS = 2**13
SIGMAS = 5.0  # a false alarm has probability 6e-7 per comparison

process = pytest.mark.parametrize("name", sorted(forward_process.PROCESSES))


def draw(name, maskable, j, n, seed=0, keys=None):
  maskable = jnp.asarray(maskable)
  if keys is None:
    keys = jax.random.split(jax.random.key(seed), maskable.shape[0])
  made = jax.jit(forward_process.PROCESSES[name], static_argnums=3)(
    keys, maskable, j, n)
  return np.asarray(made.mask), np.asarray(made.weight)


def many(name, j, n, live=LIVE, draws=DRAWS):
  return draw(name, np.tile(live, (draws, 1)), j, n)


def subsets(live):
  """All non-empty sets of maskable positions."""
  cells = np.flatnonzero(live)
  return [s for k in range(1, len(cells) + 1)
          for s in itertools.combinations(cells, k)]


def table(live, seed=7):
  """A log-prob per (set of masked positions, position in it); not additive."""
  rng = np.random.default_rng(seed)
  return {s: {i: -rng.exponential() for i in s} for s in subsets(live)}


def order_average(logp, live):
  """The ELBO by brute force over the m! orders of revealing tokens."""
  return np.mean([
    sum(logp[tuple(sorted(order[i:]))][order[i]] for i in range(len(order)))
    for order in itertools.permutations(np.flatnonzero(live))])


def estimates(logp, mask, weight):
  """The ELBO estimate of every draw, in float64."""
  return np.array([
    sum(float(w[i]) * logp[tuple(np.flatnonzero(m))][i]
        for i in np.flatnonzero(m)) for m, w in zip(mask, weight, strict=True)])


def assert_frequencies(counts, expected, draws):
  assert abs(sum(expected.values()) - 1) < 1e-9
  assert set(counts) <= set(expected)
  for item, p in expected.items():
    error = math.sqrt(p * (1 - p) / draws)
    assert abs(counts[item] / draws - p) <= SIGMAS * error, item


def test_the_oracle_is_the_subset_form_with_weight_m_over_k():
  logp = table(LIVE)
  by_subsets = sum(
    1 / (M * math.comb(M, len(s))) * M / len(s) * sum(logp[s].values())
    for s in subsets(LIVE))
  np.testing.assert_allclose(by_subsets, order_average(logp, LIVE), rtol=1e-12)


@pytest.mark.parametrize(
  ("name", "j", "n"),
  [("exact_k", 0, 1), ("exact_k", 3, 8), ("stratified", 0, 3),
   ("stratified", 2, 3), ("stratified", 5, 7), ("tiled", 0, 3),
   ("tiled", 2, 3), ("tiled", 5, 7)])
def test_all_subsets_of_k_tokens_are_equally_likely(name, j, n):
  mask, _ = many(name, j, n)
  counts = collections.Counter(tuple(np.flatnonzero(m)) for m in mask)
  assert_frequencies(
    counts, {s: 1 / (M * math.comb(M, len(s))) for s in subsets(LIVE)}, DRAWS)


@pytest.mark.parametrize("name", ["exact_k", "stratified", "tiled"])
def test_weights_are_m_over_k_on_the_masked_positions(name):
  mask, weight = many(name, 1, 3)
  k = mask.sum(1, keepdims=True)
  assert (k >= 1).all()
  np.testing.assert_array_equal(
    weight, np.where(mask, np.float32(M) / k.astype(np.float32), 0))


@pytest.mark.parametrize(
  ("name", "n"), [("exact_k", 2), ("stratified", 3), ("stratified", 6),
                  ("tiled", 3), ("tiled", 6), ("complementary", 4),
                  ("importance", 2), ("importance", 5),
                  ("balanced", 2), ("balanced", 5)])
def test_every_draw_is_unbiased_for_any_table(name, n):
  logp = table(LIVE)
  target = order_average(logp, LIVE)
  for j in range(n):
    got = estimates(logp, *many(name, j, n))
    error = got.std(ddof=1) / math.sqrt(DRAWS)
    assert abs(got.mean() - target) <= SIGMAS * error, j


def k_by_first(m, n):
  """{k of draw 0: all observed tuples of the k of the n draws}."""
  maskable = np.tile(np.arange(T) < m, (ROWS, 1))
  ks = np.stack([draw("stratified", maskable, j, n)[0].sum(1)
                 for j in range(n)], 1)
  found = collections.defaultdict(set)
  for row in ks:
    found[int(row[0])].add(tuple(map(int, row)))
  return found


@pytest.mark.parametrize(
  ("m", "n"), [(6, 3), (5, 2), (5, 3), (6, 4), (4, 4), (4, 6), (3, 7), (1, 3)])
def test_stratified_k_is_exactly_uniform_for_every_draw(m, n):
  found = k_by_first(m, n)
  # The first draw's k is uniform over 1..m (tested below) and determines the
  # others one to one, so every draw's k is uniform.
  assert sorted(found) == list(range(1, m + 1))
  assert all(len(rows) == 1 for rows in found.values())
  for j in range(n):
    assert sorted(min(r)[j] for r in found.values()) == list(range(1, m + 1))


@pytest.mark.parametrize(
  ("m", "n"), [(5, 5), (4, 4), (6, 3), (5, 3), (4, 6), (3, 7), (2, 5)])
def test_draws_of_one_response_are_spread_evenly_over_k(m, n):
  for (ks,) in k_by_first(m, n).values():
    counts = [ks.count(k) for k in range(1, m + 1)]
    assert set(counts) <= {n // m, -(-n // m)}
    if n <= m:  # no two neighbours are closer than the spacing rounded down
      ordered = sorted(ks)
      gaps = np.diff([*ordered, ordered[0] + m])
      assert gaps.min() >= m // n


def test_rounding_half_to_even_as_published_is_not_uniform():
  m, n, j = 5, 2, 1
  published = [(round(k_0 + j * m / n) - 1) % m + 1 for k_0 in range(1, m + 1)]
  assert sorted(published) != list(range(1, m + 1))


def test_first_k_of_stratified_is_uniform():
  mask, _ = many("stratified", 0, 5)
  counts = collections.Counter(map(int, mask.sum(1)))
  assert_frequencies(counts, dict.fromkeys(range(1, M + 1), 1 / M), DRAWS)


def power_integral(k, m, low):
  """Integral of t^k (1 - t)^(m - k) from `low` to 1."""
  poly = np.polynomial.Polynomial([0, 1])**k * np.polynomial.Polynomial(
    [1, -1])**(m - k)
  whole = poly.integ()
  return whole(1.0) - whole(low)


def test_continuous_masks_have_the_mixture_of_bernoullis_as_distribution():
  low = forward_process.MIN_T
  assert low == 1e-3  # runs and their seeds depend on it
  mask, _ = many("continuous", 2, 4)
  counts = collections.Counter(tuple(np.flatnonzero(m)) for m in mask)
  assert_frequencies(
    counts, {s: power_integral(len(s), M, low) / (1 - low)
             for s in [(), *subsets(LIVE)]}, DRAWS)


def test_continuous_weights_are_one_over_a_common_noise_level():
  mask, weight = many("continuous", 0, 1)
  assert (weight[~mask] == 0).all()
  some = mask.any(1)
  high, low = weight.max(1), np.where(mask, weight, np.inf).min(1)
  np.testing.assert_array_equal(high[some], low[some])
  t = 1 / high[some]
  assert t.min() >= forward_process.MIN_T * (1 - 1e-6)
  assert t.max() <= 1
  # The number of masked tokens has mean m t and variance m t (1 - t). A row
  # without masks does not show its t; with m = 64 none has t > 1/2.
  live = np.ones(64, bool)
  mask, weight = many("continuous", 0, 1, live, 1024)
  t = 1 / np.maximum(weight.max(1), 1)
  sure = t > 0.5
  sure &= mask.any(1)
  assert sure.sum() > 400
  z = (mask.sum(1) - 64 * t) / np.sqrt(64 * t * (1 - t) + 1e-9)
  assert abs(z[sure].mean()) <= SIGMAS / math.sqrt(sure.sum())


def test_continuous_is_unbiased_up_to_the_smallest_noise_level():
  logp, low = table(LIVE), forward_process.MIN_T
  truncated = sum(
    power_integral(len(s) - 1, M - 1, low) / (1 - low) * sum(logp[s].values())
    for s in subsets(LIVE))
  # The integrand is at most m max|logp|; the missing part is 2 low wide.
  largest = max(-min(row.values()) for row in logp.values())
  target = order_average(logp, LIVE)
  assert abs(truncated - target) <= 2 * low * M * largest / (1 - low)

  mask, weight = many("continuous", 1, 2)
  got = estimates(logp | {(): {}}, mask, weight)
  error = got.std(ddof=1) / math.sqrt(DRAWS)
  assert abs(got.mean() - truncated) <= SIGMAS * error


@process
def test_the_same_key_makes_the_same_draw_and_j_makes_another(name):
  maskable = np.ones((ROWS, T), bool)
  for part, again in zip(draw(name, maskable, 1, 4),
                         draw(name, maskable, 1, 4), strict=True):
    np.testing.assert_array_equal(part, again)
  others = [draw(name, maskable, 2, 4), draw(name, maskable, 1, 4, seed=1)]
  for other, _ in others:
    assert (other != draw(name, maskable, 1, 4)[0]).any(1).mean() > 0.5


@process
def test_only_maskable_positions_are_masked_or_weighted(name):
  rng = np.random.default_rng(0)
  maskable = rng.random((ROWS, T)) < 0.5
  for j in range(3):
    mask, weight = draw(name, maskable, j, 3)
    assert mask.any()
    assert not (mask & ~maskable).any()
    assert ((weight > 0) == mask).all()


@process
def test_a_row_with_nothing_maskable_is_empty_and_finite(name):
  maskable = np.zeros((ROWS, T), bool)
  maskable[::2] = True
  mask, weight = draw(name, maskable, 1, 2)
  assert mask[::2].any()
  assert not mask[1::2].any()
  assert np.isfinite(weight).all()
  assert (weight[1::2] == 0).all()


@process
def test_a_row_does_not_depend_on_its_neighbours(name):
  rng = np.random.default_rng(1)
  maskable = rng.random((ROWS, T)) < 0.7
  keys = jax.random.split(jax.random.key(3), ROWS)
  mask, weight = draw(name, maskable, 2, 5, keys=keys)
  few = rng.integers(0, ROWS, ROWS)  # some rows are left out, some repeated
  for rows in (rng.permutation(ROWS), few):
    some, some_weight = draw(name, maskable[rows], 2, 5, keys=keys[rows])
    np.testing.assert_array_equal(some, mask[rows])
    np.testing.assert_array_equal(some_weight, weight[rows])


@pytest.mark.parametrize("n", [2, 3, 7])
def test_tiles_mask_all_positions_equally_often(n):
  masked = sum(many("tiled", j, n, draws=ROWS)[0].astype(int)
               for j in range(n))[:, LIVE]
  assert (masked.max(1) - masked.min(1) <= 1).all()
  ks = np.stack([many("tiled", j, n, draws=ROWS)[0].sum(1) for j in range(n)])
  want = np.stack([many("stratified", j, n, draws=ROWS)[0].sum(1)
                   for j in range(n)])
  np.testing.assert_array_equal(ks, want)


def test_a_complementary_pair_is_unbiased_by_enumeration():
  logp = table(LIVE)
  keys = jax.random.split(jax.random.key(0), DRAWS)
  live = np.tile(LIVE, (DRAWS, 1))
  pairs = [draw("complementary", live, j, 2, keys=keys) for j in range(2)]
  values = [estimates(logp, *pair) for pair in pairs]
  of_pair = {}  # first member's set -> the pair's estimate
  for first, a, b in zip(pairs[0][0], *values, strict=True):
    chosen = tuple(np.flatnonzero(first))
    np.testing.assert_allclose(of_pair.setdefault(chosen, (a + b) / 2),
                               (a + b) / 2, rtol=1e-6)
  assert of_pair.keys() == {(), *subsets(LIVE)}
  # All k are equally likely, and all sets of k tokens.
  mean = sum(
    value / (M + 1) / math.comb(M, len(chosen))
    for chosen, value in of_pair.items())
  np.testing.assert_allclose(mean, order_average(logp, LIVE), rtol=1e-5)
