"""95% confidence intervals of measured accuracies and rewards."""

import math
import statistics
from collections.abc import Sequence

Z95 = 1.959963984540054  # the normal distribution's 97.5% quantile


def wilson(successes: int, n: int) -> tuple[float, float]:
  """The Wilson score interval `(low, high)` of a proportion.

  All p with `|k/n - p| <= Z95 sqrt(p (1 - p) / n)`: the standard error is that
  under p, not under the observed share. Unlike the textbook interval, this one
  stays inside [0, 1] and has a positive width at k = 0 and k = n. With n = 0 it
  is (0, 1). E. B. Wilson, "Probable inference, the law of succession, and
  statistical inference", JASA 22 (1927).

  Raises:
    ValueError: `successes` is not in 0..n.
  """
  if not 0 <= successes <= n:
    raise ValueError(f"{successes} successes of {n}")
  if n == 0:
    return 0.0, 1.0
  share, z2n = successes / n, Z95**2 / n
  middle = (share + z2n / 2) / (1 + z2n)
  half = math.sqrt(share * (1 - share) * z2n + z2n**2 / 4) / (1 + z2n)
  # Rounding would leave 1e-17 instead of 0, or exclude 1.
  low = 0.0 if successes == 0 else middle - half
  high = 1.0 if successes == n else middle + half
  return low, high


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
  """A normal interval `(low, high)` of the mean of fractions, cut to [0, 1].

  `mean +- Z95 s / sqrt(n)` with the unbiased variance s^2. The values are of
  independent items, for example the share of a puzzle's cells that are right.
  The interval is too narrow for few values and has no width if all values are
  equal; use `wilson` for zeros and ones. With fewer than two values it is
  (0, 1).
  """
  if len(values) < 2:
    return 0.0, 1.0
  mean = statistics.fmean(values)
  half = Z95 * statistics.stdev(values) / math.sqrt(len(values))
  return max(0.0, mean - half), min(1.0, mean + half)


def t_interval(values: Sequence[float]) -> tuple[float, float]:
  """Student's interval `(low, high)` of the mean of any numbers.

  `mean +- t s / sqrt(n)` with the 97.5% quantile of n - 1 degrees of freedom.
  It has no width if all values are equal. With fewer than two values nothing is
  known of their spread, and it is (-inf, inf).
  """
  if len(values) < 2:
    return -math.inf, math.inf
  from scipy import special  # takes as long to import as half of JAX
  mean = statistics.fmean(values)
  quantile = float(special.stdtrit(len(values) - 1, 0.975))
  half = quantile * statistics.stdev(values) / math.sqrt(len(values))
  return mean - half, mean + half


def pooled_interval(shares: Sequence[float], sizes: Sequence[int]
                    ) -> tuple[float, float]:
  """A normal interval `(low, high)` of the share of right parts of all items.

  Item i has m_i parts (`sizes`), of which the share s_i (`shares`) is right.
  The pooled share is r = sum_i m_i s_i / sum_i m_i. Items are independent,
  parts of one item are not, so the variance is that of a ratio of two means,
  linearised: n / (n - 1) sum_i (m_i (s_i - r))^2 / (sum_i m_i)^2 (W. G.
  Cochran, "Sampling Techniques", 6.4). With equal sizes it is `mean_interval`.
  """
  whole = sum(sizes)
  if len(shares) < 2 or not whole:
    return 0.0, 1.0
  pooled = pooled_share(shares, sizes)
  n = len(shares)
  squares = sum((m * (s - pooled)) ** 2
                for s, m in zip(shares, sizes, strict=True))
  half = Z95 * math.sqrt(n / (n - 1) * squares) / whole
  return max(0.0, pooled - half), min(1.0, pooled + half)


def pooled_share(shares: Sequence[float], sizes: Sequence[int]) -> float:
  """The share of right parts, pooled over items; 0 if there are no parts."""
  part = sum(m * s for s, m in zip(shares, sizes, strict=True))
  return part / (sum(sizes) or 1)
