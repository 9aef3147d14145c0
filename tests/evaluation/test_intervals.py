"""Confidence intervals against exact binomial sums and simulation."""

import math

import numpy as np
import pytest

from dlrl.evaluation import intervals as intervals_lib


@pytest.mark.parametrize(
  ("k", "n"), [(0, 10), (1, 10), (5, 10), (10, 10), (63, 512), (511, 512)])
def test_wilson_is_the_roots_of_its_quadratic(k, n):
  z2 = intervals_lib.Z95**2
  # (k/n - p)^2 = z^2 p (1 - p) / n, as a polynomial in p.
  roots = np.roots([1 + z2 / n, -2 * k / n - z2 / n, (k / n) ** 2])
  np.testing.assert_allclose(
    intervals_lib.wilson(k, n), sorted(roots.real), atol=1e-7)


@pytest.mark.parametrize("n", [20, 100, 512])
def test_wilson_covers_the_truth_about_95_times_in_100(n):
  intervals = [intervals_lib.wilson(k, n) for k in range(n + 1)]
  coverage = []
  for p in np.linspace(0.02, 0.98, 97):
    mass = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    hit = [low <= p <= high for low, high in intervals]
    coverage.append(np.dot(mass, hit))
  assert abs(np.mean(coverage) - 0.95) < 0.01
  assert min(coverage) > 0.83


def test_wilson_stays_inside_the_unit_interval_and_contains_the_share():
  for n in (1, 3, 64):
    for k in range(n + 1):
      low, high = intervals_lib.wilson(k, n)
      assert 0 <= low <= k / n <= high <= 1
      assert low < high


def test_nothing_measured_means_nothing_known():
  assert intervals_lib.wilson(0, 0) == (0.0, 1.0)
  assert intervals_lib.mean_interval([]) == (0.0, 1.0)
  assert intervals_lib.mean_interval([0.5]) == (0.0, 1.0)


def test_more_successes_than_trials_is_an_error():
  with pytest.raises(ValueError, match="3 successes of 2"):
    intervals_lib.wilson(3, 2)
  with pytest.raises(ValueError, match="-1 successes"):
    intervals_lib.wilson(-1, 2)


def test_mean_interval_of_a_hand_worked_sample():
  low, high = intervals_lib.mean_interval(
    [0.2, 0.4, 0.6]
  )  # s = 0.2, s/sqrt(3) = 0.115
  assert low == pytest.approx(0.4 - 1.96 * 0.2 / math.sqrt(3), abs=1e-4)
  assert high == pytest.approx(0.4 + 1.96 * 0.2 / math.sqrt(3), abs=1e-4)


def test_mean_interval_covers_the_truth_about_95_times_in_100():
  draws = np.random.default_rng(0).beta(2, 5, (2000, 64))
  hits = [
    low <= 2 / 7 <= high
    for low, high in map(intervals_lib.mean_interval, draws)
  ]
  assert 0.93 < np.mean(hits) < 0.965


def test_t_interval_of_a_hand_worked_sample():
  # s = 1 and t = 4.303 with two degrees of freedom, from printed tables.
  assert intervals_lib.t_interval([-1.0, 0.0, 1.0]) == pytest.approx(
    (-4.303 / math.sqrt(3), 4.303 / math.sqrt(3)), abs=1e-3)
  assert intervals_lib.t_interval([18.0] * 4) == (18.0, 18.0)
  for few in ([], [3.0]):
    assert intervals_lib.t_interval(few) == (-math.inf, math.inf)


def test_t_interval_covers_the_truth_of_few_values_about_95_times_in_100():
  draws = np.random.default_rng(0).normal(-3, 2, (2000, 5))
  hits = [low <= -3 <= high
          for low, high in map(intervals_lib.t_interval, draws.tolist())]
  assert 0.935 < np.mean(hits) < 0.965


def test_a_pooled_interval_is_that_of_the_mean_where_sizes_are_equal():
  values = [0.2, 0.4, 0.6, 0.9]
  assert intervals_lib.pooled_share(values, [7] * 4) == pytest.approx(
    np.mean(values)
  )
  assert intervals_lib.pooled_interval(values, [7] * 4) == pytest.approx(
    intervals_lib.mean_interval(values))
  assert intervals_lib.pooled_interval([0.5], [3]) == (0.0, 1.0)
  assert intervals_lib.pooled_interval([0.5, 0.5], [0, 0]) == (0.0, 1.0)


def test_pooled_interval_covers_the_truth_about_95_times_in_100():
  # Sizes differ, and large items are worse: the mean of shares is another.
  rng = np.random.default_rng(5)
  kinds = np.array([[2, 0.9], [10, 0.2], [4, 0.5]])
  truth = np.average(kinds[:, 1], weights=kinds[:, 0])
  hits, means = 0, 0
  for _ in range(1000):
    size, chance = kinds[rng.integers(0, 3, 100)].T
    # Cells of an item go together: half of the items are all right or wrong.
    cells = rng.binomial(size.astype(int), chance)
    together = rng.random(100) < 0.5
    cells = np.where(together, size * (rng.random(100) < chance), cells)
    low, high = intervals_lib.pooled_interval(
      (cells / size).tolist(), size.astype(int).tolist())
    hits += low <= truth <= high
    means += low <= kinds[:, 1].mean() <= high
  assert 925 <= hits <= 970
  assert means < 100
