"""The variance of a gradient, split into prompts, completions and draws.

A gradient of one prompt depends on the prompt, on the completions that are
drawn for it, and on the draws by which these are scored. With P prompts, C sets
of completions of each and D sets of draws of each, all independent,

    g[p, c, d] = mean + prompt[p] + completions[p, c] + draws[p, c, d]

is a nested model of random effects, whose variances follow from sums of
squares (S. R. Searle, G. Casella and C. E. McCulloch, "Variance Components",
3.3). The gradient of a step is a mean over prompts, so that the three keep
their shares of its variance.
"""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from dlrl.evaluation import intervals

PARTS = ("prompts", "completions", "draws")


class Sums:
  """Sums of squares of gradients, prompt by prompt.

  Keeps one gradient per prompt, the mean over its completions and draws.
  """

  def __init__(self) -> None:
    self._means: list[np.ndarray] = []
    self._completions: list[float] = []
    self._draws: list[float] = []
    self._shape = 0, 0

  def add(self, gradients: np.ndarray) -> None:
    """Adds a prompt's gradients, [completions, draws, parameters] float."""
    of_completions = gradients.mean(1, dtype=np.float64)
    mean = of_completions.mean(0)
    self._shape = gradients.shape[0], gradients.shape[1]
    self._draws.append(float(np.sum(
      (gradients - of_completions[:, None]) ** 2, dtype=np.float64)))
    self._completions.append(float(np.sum((of_completions - mean) ** 2)))
    self._means.append(mean)

  def squares(self) -> "Squares":
    """What the variances follow from.

    Raises:
      ValueError: there are fewer than two prompts.
    """
    if len(self._means) < 2:
      raise ValueError(f"{len(self._means)} prompts; add at least two")
    means = np.stack(self._means)
    return Squares(*self._shape, np.array(self._draws),
                   np.array(self._completions), means @ means.T)


@dataclasses.dataclass(frozen=True)
class Squares:
  """Sums of squares by prompt, from which variances follow at no cost.

  Attributes:
    completions: sets of completions of each prompt.
    draws: sets of draws of each set of completions.
    within_draws: [p], squares about the mean over draws, summed.
    within_completions: [p], of means over draws about the prompt's mean.
    products: [p, p], inner products of the prompts' mean gradients.
  """

  completions: int
  draws: int
  within_draws: np.ndarray
  within_completions: np.ndarray
  products: np.ndarray

  def variances(self, chosen: np.ndarray | None = None) -> dict[str, float]:
    """The variances by `PARTS`, and `signal`, the squared mean gradient.

    All are unbiased, so that small ones can be negative.

    Args:
      chosen: indices of prompts; None: all of them.
    """
    at = np.arange(len(self.within_draws)) if chosen is None else chosen
    p, c, d = len(at), self.completions, self.draws
    draws = self.within_draws[at].sum() / (p * c * (d - 1))
    middle = d * self.within_completions[at].sum() / (p * (c - 1))
    among = self.products[np.ix_(at, at)]
    whole = among.sum() / p**2
    outer = c * d * (np.trace(among) - p * whole) / (p - 1)
    return {"prompts": float((outer - middle) / (c * d)),
            "completions": float((middle - draws) / d), "draws": float(draws),
            "signal": float(whole - outer / (p * c * d))}

  def intervals(self) -> dict[str, tuple[float, float]]:
    """95% intervals of each part's share, by jackknife over prompts.

    Student's, of Tukey's pseudo-values (R. G. Miller, "The jackknife - a
    review", Biometrika 61, 1974). A bootstrap would repeat prompts, which then
    differ too little.
    """
    p = len(self.within_draws)
    whole = shares(self.variances())
    without = [shares(self.variances(np.delete(np.arange(p), i)))
               for i in range(p)]
    return {part: intervals.t_interval(
      [p * whole[part] - (p - 1) * one[part] for one in without])
      for part in PARTS}


def ratio(one: Squares, other: Squares, parts: Sequence[str] = PARTS
          ) -> tuple[float, float, float]:
  """These parts of a variance, together, relative to the other's: `(x, l, h)`.

  Both are of the same prompts. The 95% interval is as in `Squares.intervals`,
  of the logarithm.
  """
  p = len(one.within_draws)

  def log(chosen: np.ndarray | None) -> float:
    mine, theirs = (sum(each.variances(chosen)[part] for part in parts)
                    for each in (one, other))
    return float(np.log(mine / theirs))

  whole = log(None)
  without = [log(np.delete(np.arange(p), i)) for i in range(p)]
  low, high = intervals.t_interval(
    [p * whole - (p - 1) * each for each in without])
  return float(np.exp(whole)), float(np.exp(low)), float(np.exp(high))


def shares(variances: Mapping[str, float]) -> dict[str, float]:
  """Each part's share of the variance of a step's gradient."""
  whole = sum(variances[part] for part in PARTS)
  return {part: variances[part] / whole for part in PARTS}


def best(by_n: Mapping[int, Mapping[str, float]], *, rollout: float,
         draw: float) -> int:
  """The number of draws with the least variance at equal cost.

  A budget pays for completions, each of which costs `rollout` and `draw` for
  each of its draws; the variance of the gradient is that of one completion
  divided by their number.

  Args:
    by_n: variances by `PARTS` at each number of draws.
    rollout: cost of making a completion.
    draw: cost of one of its draws.
  """
  return min(by_n, key=lambda n: sum(by_n[n][part] for part in PARTS) * (
    rollout + n * draw))
