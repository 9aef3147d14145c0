"""Masks and weights of the methods that do not estimate an ELBO."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl.diffusion import method_processes

pytestmark = pytest.mark.usefixtures("unoptimized")

LIVE = np.array([True, False, True, True, False, True, True, True])
T, M, B = len(LIVE), int(LIVE.sum()), 4096
SIGMAS = 5.0


def draw(name, j, n, live=LIVE, b=B, seed=0, **knobs):
  keys = jax.random.split(jax.random.key(seed), b)
  made = jax.jit(
    lambda k, m: method_processes.PROCESSES[name](k, m, j, n, **knobs)
  )(keys, jnp.asarray(np.tile(live, (b, 1))))
  return np.asarray(made.mask), np.asarray(made.weight)


def assert_mean(samples, want):
  samples = np.asarray(samples, np.float64)
  error = samples.std(0, ddof=1) / math.sqrt(len(samples))
  assert (np.abs(samples.mean(0) - want) <= SIGMAS * error + 1e-9).all()


@pytest.mark.parametrize("name", sorted(method_processes.PROCESSES))
def test_only_maskable_tokens_are_masked_and_only_masked_ones_count(name):
  for j in range(3):
    mask, weight = draw(name, j, 6, b=64, **(
      {"block_length": 4} if name == "block" else {}))
    assert not mask[:, ~LIVE].any()
    assert (weight[~mask] == 0).all()
    assert np.isfinite(weight).all()
    assert (weight >= 0).all()


@pytest.mark.parametrize("name", sorted(method_processes.PROCESSES))
def test_a_row_without_maskable_tokens_masks_nothing(name):
  mask, weight = draw(name, 1, 6, live=np.zeros(T, bool), b=8, **(
    {"block_length": 4} if name == "block" else {}))
  assert not mask.any()
  assert not weight.any()


@pytest.mark.parametrize("n", [2, 4, M])
def test_quadrature_levels_are_the_midpoints(n):
  levels = []
  for j in range(n):
    mask, weight = draw("quadrature", j, n)
    k = mask.sum(1)
    assert (k == k[0]).all()
    levels.append(int(k[0]))
    np.testing.assert_allclose(weight[mask], M / k[0], rtol=1e-6)
    assert_mean(mask[:, LIVE], k[0] / M)  # a uniform subset
  want = [int(np.floor((j + 0.5) / n * M)) + 1 for j in range(n)]
  assert levels == want
  if n == M:
    assert levels == list(range(1, M + 1))  # every level once: no bias


def test_complementary_draws_mask_every_token_once_per_pair():
  n = 6
  for pair in range(n // 2):
    first, weight = draw("complementary", 2 * pair, n)
    second, others = draw("complementary", 2 * pair + 1, n)
    np.testing.assert_array_equal(first ^ second, np.tile(LIVE, (B, 1)))
    k = first.sum(1)
    # k is uniform on 0..m, so each count has the same chance.
    chance = 1 / (M + 1)
    error = math.sqrt(chance * (1 - chance) / B)
    for value in range(M + 1):
      assert abs((k == value).mean() - chance) <= SIGMAS * error
    for mask, w in ((first, weight), (second, others)):
      count = np.maximum(mask.sum(1, keepdims=True), 1)
      np.testing.assert_allclose(w, np.where(mask, (M + 1) / count, 0))


def test_the_pairs_noise_levels_are_spread():
  n = 6
  k = np.stack([draw("complementary", 2 * i, n)[0].sum(1) for i in range(3)])
  steps = np.diff(np.sort(k, 0), axis=0)
  assert steps.min() >= 2  # 7 values over 3 pairs


def test_all_masked_is_all_masked():
  mask, weight = draw("all_masked", 0, 1, b=4)
  np.testing.assert_array_equal(mask, np.tile(LIVE, (4, 1)))
  np.testing.assert_array_equal(weight, mask)


def test_coupled_draws_predict_every_token_twice_with_mean_weight_one():
  draws = [draw("coupled", j, 3) for j in range(3)]
  whole, part, rest = (mask for mask, _ in draws)
  np.testing.assert_array_equal(whole, np.tile(LIVE, (B, 1)))
  np.testing.assert_array_equal(part ^ rest, whole)
  np.testing.assert_array_equal(draws[0][1], 1.5 * whole)
  both = part.any(1) & rest.any(1)
  r = 1.5 / draws[1][1][both].max(1)
  assert r.min() >= 0.2
  assert r.max() <= 0.8
  np.testing.assert_allclose(1.5 / draws[2][1][both].max(1), 1 - r, rtol=1e-5)
  # Per token, the mean of the weights has expectation
  # (3/2 + r 3/(2r) + (1-r) 3/(2(1-r))) / 3 = 3/2.
  assert_mean(np.mean([w for _, w in draws], 0)[:, LIVE], 1.5)


def test_every_triple_of_coupled_draws_has_a_split_of_its_own():
  parts = []
  for start in range(0, 12, 3):
    whole, part, rest = (draw("coupled", start + i, 12)[0] for i in range(3))
    np.testing.assert_array_equal(part ^ rest, whole)
    assert not (part & rest).any()
    assert all((part != other).any(1).mean() > 0.5 for other in parts)
    parts.append(part)


def test_random_ratios_are_spaced_evenly():
  n, size = 4, 4000
  live = np.ones(size, bool)
  share = np.stack([draw("random_ratio", j, n, live=live, b=16)[0].mean(1)
                    for j in range(n)])
  # Modulo 1, a draw's ratio is the first one's plus j / n.
  apart = (share - share[:1] - np.arange(n)[:, None] / n + 0.5) % 1 - 0.5
  assert np.abs(apart).max() <= SIGMAS * math.sqrt(2 * 0.25 / size)


@pytest.mark.parametrize("n", [1, 2, M])
def test_parts_from_left_to_right_cover_every_token_once(n):
  total = np.zeros((4, T))
  for j in range(n):
    mask, weight = draw("left_to_right", j, n, b=4)
    total += weight / n
    counts = np.flatnonzero(weight[0])
    # The scored part and everything after it are masked, nothing before.
    np.testing.assert_array_equal(
      mask[0], LIVE & (np.arange(T) >= counts.min()))
  np.testing.assert_array_equal(total, np.tile(LIVE, (4, 1)))


def test_blocks_are_clean_before_noisy_within_and_masked_after():
  n = 2
  live = np.array([True] * 6 + [False] * 2)  # the last block has two
  seen = []
  for j in range(n):
    mask, weight = draw("block", j, n, live=live, b=B, block_length=2)
    np.testing.assert_array_equal(weight, mask)
    blocks = mask.reshape(B, 4, 2)
    chosen = blocks.any(2).argmax(1)
    seen.append(chosen)
    for block in range(3):
      rows = blocks[chosen == block]
      assert not rows[:, :block].any()
      assert rows[:, block + 1 : 3].all()
      assert_mean(rows[:, block].sum(1), 1.5)  # 1 or 2 of its tokens
  assert (seen[0] != seen[1]).all()  # without replacement
  for block in range(3):
    assert_mean(seen[0] == block, 1 / 3)


def test_a_block_length_that_does_not_divide_is_named():
  with pytest.raises(ValueError, match="block_length 3"):
    draw("block", 0, 1, b=2, block_length=3)


def test_slices_of_a_trace_see_what_the_sampler_saw():
  steps = jnp.array([[0, 2, 1, 1, 3, 0]])
  live = jnp.array([[True, True, True, True, True, False]])
  masked, counted = [], []
  for j in range(2):
    mask, weight = method_processes.trace(steps, live, j, 2, shrink=2)
    masked.append(np.flatnonzero(mask[0]).tolist())
    counted.append(np.flatnonzero(weight[0]).tolist())
    np.testing.assert_array_equal(weight[weight > 0], 2)
  assert masked == [[0, 1, 2, 3, 4], [1, 4]]
  assert counted == [[0, 2, 3], [1, 4]]


def test_forks_are_one_token_each_given_what_was_there_before():
  # Steps 1 and 3 committed one unsure token each, the others only sure ones.
  steps = jnp.array([[-1, 0, 1, 2, 2, 3, 4]])
  unsure = jnp.array([[False, False, True, False, False, True, False]])
  found = method_processes.fork_steps(steps, unsure)
  np.testing.assert_array_equal(found, [[-1, -1, 0, 1, 1, 2, 3]])
  live = jnp.ones((1, 7), bool).at[0, 6].set(False)
  masked, counted = [], []
  for j in range(3):
    mask, weight = method_processes.forks(found, live, j, 3)
    masked.append(np.flatnonzero(mask[0]).tolist())
    counted.append(np.flatnonzero(weight[0]).tolist())
    np.testing.assert_array_equal(weight[weight > 0], 3)
  assert masked == [[2, 3, 4, 5], [5], []]
  assert counted == [[2], [5], []]


def test_prompt_noise_has_its_rate_and_its_own_randomness():
  keys = jax.random.split(jax.random.key(0), B)
  live = jnp.tile(jnp.arange(5) < 4, (B, 1))
  first = np.asarray(method_processes.prompt_noise(keys, live, 0, 4, 0.15))
  other = np.asarray(method_processes.prompt_noise(keys, live, 1, 4, 0.15))
  assert_mean(first[:, :4], 0.15)
  assert not first[:, 4].any()
  assert (first != other).any()
  # None of the masks' keys, which are folded with 0..n, is used again.
  half = np.asarray(method_processes.prompt_noise(keys, live, 0, 4, 0.5))
  for i in range(5):
    noise = jax.vmap(lambda key, i=i: jax.random.uniform(
      jax.random.fold_in(key, i), (5,)))(keys)
    assert_mean((half == (noise < 0.5))[:, :4], 0.5)


def test_defaults_of_settings_stay_what_runs_rely_on():
  processes = method_processes.PROCESSES | method_processes.OF_TRACE
  found = {
    (name, key): p.default for name, process in processes.items()
    for key, p in inspect.signature(process).parameters.items()
    if p.default is not p.empty}
  assert found == {("truncated", "least"): 0.5, ("block", "block_length"): 32,
                   ("trace", "shrink"): 1}
