"""STP: fixed tokens, remembered completions, and the variance of the ELBO."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl.diffusion import forward_process
from dlrl.diffusion import method_processes
from dlrl.diffusion import pruning


def keys(n, seed=0):
  return jax.random.split(jax.random.key(seed), n)


@pytest.mark.parametrize(
  ("step", "steps", "want"),
  [(0, 10, 0.6), (5, 10, 0.3), (10, 10, 0), (99, 10, 0), (99, 0, 0.6)])
def test_the_share_falls_linearly_to_zero(step, steps, want):
  got = pruning.annealed(0.6, jnp.int32(step), steps)
  np.testing.assert_allclose(got, want, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.6, 1.0])
@pytest.mark.parametrize("rule", sorted(pruning.REMASK))
def test_the_share_of_the_known_tokens_is_fixed(rule, share):
  rng = np.random.default_rng(0)
  known = rng.random((5, 9)) < 0.7
  known[3] = False
  logps = jnp.asarray(np.log(rng.random((5, 9))), jnp.float32)
  order = pruning.REMASK[rule](keys(5), logps)
  kept = np.asarray(pruning.keep(order, jnp.asarray(known), share))
  assert not (kept & ~known).any()
  np.testing.assert_array_equal(
    kept.sum(1), np.floor(share * known.sum(1) + 0.5))
  for row, good, logp in zip(kept, known, np.asarray(logps), strict=True):
    gone = good & ~row
    if rule == "tail" and row.any() and gone.any():
      assert np.flatnonzero(row).max() < np.flatnonzero(gone).min()
    if rule == "lowprob" and row.any() and gone.any():
      assert logp[row].min() > logp[gone].max()


def test_every_known_token_is_as_likely_to_stay():
  n, t, share = 4096, 6, 0.5
  known = jnp.broadcast_to(jnp.arange(t) != 2, (n, t))
  order = pruning.REMASK["random"](keys(n), jnp.zeros((n, t)))
  kept = np.asarray(pruning.keep(order, known, share)).mean(0)
  chance = np.where(np.arange(t) != 2, 3 / 5, 0)  # 2.5 rounds to 3
  error = np.sqrt(chance * (1 - chance) / n)
  assert (abs(kept - chance) <= 5 * error).all()


def test_the_best_completion_of_a_group_is_remembered():
  memory = pruning.empty(4, 3)
  completion = jnp.arange(18).reshape(6, 3)
  reward = jnp.array([0.0, 1.0, 0.2, 0.4, 2.0, 1.0])
  memory = pruning.store(
    memory, jnp.array([5, 6, 11]), completion, reward, 1.0)
  tokens, found = pruning.recall(memory, jnp.array([5, 6, 11, 7, 1, 0]))
  np.testing.assert_array_equal(found, [True, False, True, *[False] * 3])
  np.testing.assert_array_equal(tokens[0], [3, 4, 5])
  np.testing.assert_array_equal(tokens[2], [12, 13, 14])


def test_a_completion_whose_reward_is_not_known_is_not_remembered():
  completion = jnp.arange(12).reshape(4, 3)
  memory = pruning.store(
    pruning.empty(4, 3), jnp.array([5, 6]), completion,
    jnp.array([jnp.nan, 0.0, jnp.nan, jnp.nan]), 0.0)
  tokens, found = pruning.recall(memory, jnp.array([5, 6]))
  np.testing.assert_array_equal(found, [True, False])
  np.testing.assert_array_equal(tokens[0], [3, 4, 5])


def test_prompts_of_one_slot_take_turns_and_are_never_mixed_up():
  memory = pruning.empty(4, 2)
  first = jnp.array([[1, 1], [2, 2], [3, 3]])
  memory = pruning.store(
    memory, jnp.array([2, 6, 10]), first, jnp.array([0.0, 1.0, 1.0]), 1.0)
  tokens, found = pruning.recall(memory, jnp.array([2, 6, 10]))
  np.testing.assert_array_equal(found, [False, True, False])
  np.testing.assert_array_equal(tokens[1], [2, 2])
  memory = pruning.store(
    memory, jnp.array([10]), first[2:], jnp.array([1.0]), 1.0)
  _, found = pruning.recall(memory, jnp.array([2, 6, 10]))
  np.testing.assert_array_equal(found, [False, False, True])
  # A group without a good completion keeps the stored one.
  memory = pruning.store(
    memory, jnp.array([10]), first[:1], jnp.array([0.5]), 1.0)
  tokens, found = pruning.recall(memory, jnp.array([10]))
  assert found[0]
  np.testing.assert_array_equal(tokens[0], [3, 3])


def additive_scores(process, scores, free, draws, n=1, **knobs):
  """ELBO estimates in a model whose log-probs do not depend on the mask."""
  @jax.jit
  def estimates(keys):
    maskable = jnp.broadcast_to(jnp.asarray(free), (draws, len(free)))
    parts = [process(keys, maskable, j, n, **knobs).weight @ jnp.asarray(
      scores, jnp.float32) for j in range(n)]
    return sum(parts) / n

  return np.asarray(estimates(keys(draws)), np.float64)


def variance_by_hand(scores, least_k):
  """Variance of one draw's estimate with k uniform in least_k..n, in float64.

  The sum of k of n values, drawn without replacement, has the variance
  k (1 - k / n) sigma^2 n / (n - 1), times the weight (n / k)^2. The estimate's
  mean does not depend on k, so the variances are averaged over k.
  """
  n = len(scores)
  sigma2 = np.var(scores)
  ks = np.arange(least_k, n + 1)
  return np.mean((n / ks) ** 2 * ks * (1 - ks / n) * n / (n - 1)) * sigma2


@pytest.mark.parametrize("n", [5, 16, 256])
def test_the_variance_is_the_closed_formula(n):
  scores = np.random.default_rng(n).normal(-1, 0.7, n)
  harmonic = np.sum(1 / np.arange(1, n + 1))
  formula = n**2 * (harmonic - 1) / (n - 1) * np.var(scores)
  np.testing.assert_allclose(variance_by_hand(scores, 1), formula, rtol=1e-12)


@pytest.mark.parametrize(
  ("process", "fixed", "least"),
  [("exact_k", 0, 0.0), ("exact_k", 6, 0.0), ("truncated", 0, 0.5),
   ("truncated", 6, 0.5), ("truncated", 6, 0.0)])
def test_pruned_draws_have_that_variance_and_no_bias(process, fixed, least):
  t, draws = 16, 2**15
  scores = np.random.default_rng(0).normal(-1, 0.7, t)
  free = np.arange(t) >= fixed
  knobs = {"least": least} if process == "truncated" else {}
  got = additive_scores(
    method_processes.PROCESSES[process], scores, free, draws, **knobs)
  left = scores[free]
  want = variance_by_hand(left, max(1, math.ceil(least * len(left))))
  assert abs(got.mean() - left.sum()) <= 5 * math.sqrt(want / draws)
  # The standard error of a variance, from the fourth moment.
  fourth = np.mean((got - got.mean()) ** 4)
  assert abs(got.var() - want) <= 5 * math.sqrt((fourth - want**2) / draws)


def test_pruning_takes_more_than_half_of_the_variance():
  t, draws = 16, 2**14
  scores = np.random.default_rng(1).normal(-1, 0.7, t)
  whole = additive_scores(
    forward_process.exact_k, scores, np.ones(t, bool), draws)
  for free, least in ((t, 0.5), (10, 0.5), (7, 0.0)):
    pruned = additive_scores(
      functools.partial(method_processes.truncated, least=least), scores,
      np.arange(t) >= t - free, draws)
    assert pruned.var() < 0.5 * whole.var()


@pytest.mark.parametrize("least", [0.0, 0.3, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("m", [1, 2, 7])
def test_levels_are_uniform_from_the_least_up(m, least):
  n, draws = 3, 4096
  maskable = jnp.broadcast_to(jnp.arange(8) < m, (draws, 8))
  low = max(1, math.ceil(least * m - 1e-6))
  for j in range(n):
    mask, weight = jax.jit(
      lambda k, m, j=j: method_processes.truncated(k, m, j, n, least=least))(
        keys(draws, j), maskable)
    k = np.asarray(mask).sum(1)
    counts = np.bincount(k, minlength=9) / draws
    chance = 1 / (m - low + 1)
    assert counts[:low].sum() == 0
    assert (abs(counts[low:m + 1] - chance)
            <= 5 * math.sqrt(chance * (1 - chance) / draws) + 1e-9).all()
    np.testing.assert_allclose(
      np.asarray(weight).max(1), m / k, rtol=1e-6)
