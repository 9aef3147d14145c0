"""Advantages against float64 NumPy and published code."""

import jax.numpy as jnp
import numpy as np
import pytest

from dlrl import losses

EPS = 1e-6  # added to the standard deviation


def normalized(reward, group_size):
  return np.asarray(losses.normalized(
    jnp.asarray(reward, jnp.float32), group_size))


def test_a_hand_worked_group():
  # mean 1, deviations -1, -1, 2, std sqrt(6 / 2)
  root = np.sqrt(3)
  np.testing.assert_allclose(
    normalized([0, 0, 3], 3), [-1 / root, -1 / root, 2 / root], rtol=1e-5)


@pytest.mark.parametrize("group_size", [2, 3, 5])
def test_leave_one_out_subtracts_the_mean_of_the_others(group_size):
  reward = np.random.default_rng(0).normal(size=(4, group_size))
  others = (reward.sum(1, keepdims=True) - reward) / (group_size - 1)
  np.testing.assert_allclose(
    losses.leave_one_out(jnp.asarray(reward.ravel()), group_size),
    (reward - others).ravel(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("group_size", [2, 3, 8])
def test_groups_are_normalized_on_their_own(group_size):
  rng = np.random.default_rng(group_size)
  reward = rng.normal(3, 2, (5, group_size)).astype(np.float32)
  wide = reward.astype(np.float64)
  want = (wide - wide.mean(1, keepdims=True)) / (
    wide.std(1, ddof=1, keepdims=True) + EPS)
  np.testing.assert_allclose(
    normalized(reward.ravel(), group_size), want.ravel(), rtol=2e-5, atol=1e-5)


def test_the_scale_of_the_reward_does_not_matter():
  reward = np.random.default_rng(0).normal(size=12)
  np.testing.assert_allclose(
    normalized(7 * reward - 3, 4), normalized(reward, 4), rtol=1e-4, atol=1e-5)


@pytest.mark.shared_data
def test_golden_advantages_but_for_the_epsilon(shared):
  golden = np.load(shared / "golden" / "losses.npz")
  reward = golden["advantages.rewards"].astype(np.float64)
  size = int(golden["advantages.num_generations"])
  std = reward.reshape(-1, size).std(1, ddof=1).repeat(size)
  # The published code computes (r - mean) / (std + 1e-4).
  want = golden["advantages.grpo_scaled"] * (std + 1e-4) / (std + EPS)
  live = std > 0
  assert live.any()
  got = normalized(reward, size)
  np.testing.assert_allclose(got[live], want[live], rtol=2e-5, atol=1e-5)
  np.testing.assert_array_equal(got[~live], 0)


def test_equal_rewards_teach_exactly_nothing():
  rounded = 0
  for value in (0.0, 1.0, 0.1, 0.7, 1 / 3, 123.4):
    for group_size in (3, 6, 7):
      reward = jnp.full(2 * group_size, value, jnp.float32)
      rounded += int((jnp.mean(reward[:group_size]) != reward[0]).item())
      np.testing.assert_array_equal(losses.normalized(reward, group_size), 0)
  assert rounded > 0  # the cases include a mean that is off by rounding


@pytest.mark.parametrize("name", sorted(losses.ADVANTAGES))
def test_an_unknown_reward_leaves_the_rest_as_in_a_group_without_it(name):
  advantage = losses.ADVANTAGES[name]
  rng = np.random.default_rng(3)
  for group_size in (3, 4, 8):
    whole = rng.normal(size=(2, group_size)).astype(np.float32)
    for at in (0, group_size - 1):
      with_hole = np.insert(whole, at, np.nan, axis=1)
      got = np.asarray(advantage(with_hole.ravel(), group_size + 1))
      got = got.reshape(2, -1)
      np.testing.assert_array_equal(got[:, at], 0)
      np.testing.assert_allclose(
        np.delete(got, at, axis=1).ravel(),
        advantage(whole.ravel(), group_size), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(losses.ADVANTAGES))
@pytest.mark.parametrize("reward", [[1.0] + [np.nan] * 3, [np.nan] * 4,
                                    [0.7, np.nan, 0.7, 0.7]])
def test_a_group_with_too_few_known_rewards_teaches_nothing(name, reward):
  got = losses.ADVANTAGES[name](jnp.array(reward), 4)
  np.testing.assert_array_equal(got, 0)


def test_a_group_of_equals_leaves_the_other_groups_alone():
  got = normalized([0.1, 0.1, 0.1, 0.0, 1.0, 0.0], 3)
  np.testing.assert_array_equal(got[:3], 0)
  np.testing.assert_array_equal(got[3:], normalized([0.0, 1.0, 0.0], 3))
  assert (got[3:] != 0).all()


def test_damping_scales_what_is_below_zero_only():
  advantage = jnp.array([-2.0, -0.5, 0.0, 0.5, 3.0])
  for weight in (0.0, 0.25, 1.0):
    np.testing.assert_array_equal(
      losses.damp_negative(advantage, weight),
      [-2 * weight, -0.5 * weight, 0, 0.5, 3])


@pytest.mark.parametrize("name", sorted(losses.ADVANTAGES))
def test_each_reward_has_advantages_of_its_own_that_are_added_up(name):
  rng = np.random.default_rng(5)
  # Solved or not, and tokens per forward pass, on quite another scale.
  rewards = np.stack([rng.integers(0, 2, 12), rng.uniform(1, 9, 12)], 1)
  rewards[4:8, 0] = 1  # a group that is all right still differs in speed
  rewards[[1, 9]] = np.nan
  want = np.zeros(12)
  for weight, column in zip((1.0, 0.25), rewards.T, strict=True):
    for group in range(3):
      places = 4 * group + np.arange(4)
      known = places[~np.isnan(column[places])]
      r = column[known]
      apart, n = r - r.mean(), len(r)
      if np.ptp(r) == 0:
        continue
      up, down = np.exp(apart), np.exp(-apart)
      want[known] += weight * {
        "normalized": apart / (r.std(ddof=1) + EPS), "centered": apart,
        "leave_one_out": r - (r.sum() - r) / (n - 1),
        "softmax": n * (up / up.sum() - down / down.sum())}[name]
  got = losses.decoupled(
    jnp.asarray(rewards, jnp.float32), 4, weights=(1.0, 0.25),
    rule=losses.ADVANTAGES[name])
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_reward_with_large_numbers_does_not_hide_another():
  solved = np.array([1.0, 0, 1, 0])
  speed = np.array([100.0, 300, 300, 500])  # the right answers are slow
  rewards = jnp.asarray(np.stack([solved, speed], 1))
  together = np.asarray(losses.normalized(solved + speed, 4))
  each = np.asarray(losses.decoupled(rewards, 4, weights=(1.0, 1.0)))
  assert together[2] < 0.01  # right, and as fast as the mean: hardly better
  # By hand: std of solved 1/sqrt(3), of speed 100 sqrt(8/3).
  a, b = np.sqrt(3) / 2, np.sqrt(1.5)
  np.testing.assert_allclose(
    each, [a - b, -a, a, b - a], rtol=1e-5, atol=1e-5)


def test_as_many_weights_as_rewards():
  with pytest.raises(ValueError, match="k = 1, as in weights"):
    losses.decoupled(jnp.ones((4, 2)), 4, weights=(1.0,))
