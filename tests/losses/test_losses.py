"""BGPO, VRPO-OL and REINFORCE: formulas, bounds and published code."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from dlrl import losses
from dlrl.diffusion import elbo

N, B = 4, 6


def case(seed=0, spread=0.7):
  rng = np.random.default_rng(seed)
  old = rng.normal(-2, 1, (N, B))
  score = old + spread * rng.normal(size=(N, B))
  advantage = rng.normal(size=B)
  advantage[:3] = 1.3, -0.8, 0.0
  return tuple(np.asarray(x, np.float32) for x in (score, old, advantage))


def written(score, old, advantage):
  """BGPO's loss and its gradient w.r.t. the scores, as in the paper."""
  delta = score.astype(np.float64) - old
  a = advantage.astype(np.float64)
  bound = np.where(a >= 0, (1 + delta) * a, np.exp(delta) * a)
  slope = np.where(a >= 0, a, np.exp(delta) * a)
  return -bound.mean(0), -slope / len(delta)


@jax.jit
def bgpo_and_gradients(score, old, advantage):
  """(loss [b], gradients of its sum w.r.t. score and old score)."""
  def total(score, old):
    loss, _ = losses.bgpo(score, old, advantage)
    return jnp.sum(loss), loss

  grads, loss = jax.grad(total, (0, 1), has_aux=True)(score, old)
  return loss, grads


@jax.jit
def three_losses(score, old, advantage):
  return (losses.bgpo(score, old, advantage)[0],
          losses.vrpo_online(score, old, advantage)[0],
          losses.elbo_reinforce(score, advantage)[0])


@jax.jit
def three_gradients(score, old, advantage):
  return jax.jacrev(lambda s: tuple(
    jnp.sum(x) for x in three_losses(s, old, advantage)))(score)


def test_bgpo_and_its_gradient_are_as_written():
  for seed in range(5):
    args = case(seed)
    loss, (grad, old_grad) = bgpo_and_gradients(*args)
    want, want_grad = written(*args)
    np.testing.assert_allclose(loss, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(old_grad, 0)


def test_vrpo_online_and_its_gradient_are_as_written():
  score, old, advantage = case(1)
  loss, metrics = losses.vrpo_online(score, old, advantage)
  ratio = np.exp((score.astype(np.float64) - old).mean(0))
  np.testing.assert_allclose(loss, -ratio * advantage, rtol=1e-5)
  np.testing.assert_allclose(metrics["ratio"], ratio, rtol=1e-5)
  np.testing.assert_allclose(
    three_gradients(score, old, advantage)[1],
    np.tile(-ratio * advantage / N, (N, 1)), rtol=1e-5)


def test_elbo_reinforce_is_the_advantage_times_the_mean_score():
  score, _, advantage = case(2)
  loss, metrics = losses.elbo_reinforce(score, advantage)
  np.testing.assert_allclose(
    loss, -score.astype(np.float64).mean(0) * advantage, rtol=1e-5)
  assert metrics == {}


def test_all_gradients_agree_where_the_policy_has_not_moved():
  _, old, advantage = case(3)
  bgpo, vrpo, reinforce = three_gradients(old, old, advantage)
  np.testing.assert_allclose(bgpo, reinforce, atol=1e-6, rtol=0)
  np.testing.assert_allclose(vrpo, reinforce, atol=1e-6, rtol=0)
  np.testing.assert_allclose(
    bgpo, np.tile(-advantage / N, (N, 1)), atol=1e-6, rtol=0)


def test_bgpo_equals_what_it_bounds_where_the_policy_has_not_moved():
  _, old, advantage = case(4)
  bgpo, vrpo, _ = three_losses(old, old, advantage)
  np.testing.assert_array_equal(bgpo, -advantage)
  np.testing.assert_array_equal(vrpo, -advantage)


scores = st.lists(st.floats(-4, 4, width=32), min_size=N * B, max_size=N * B)


@hypothesis.given(scores, scores, st.lists(
  st.floats(-3, 3, width=32), min_size=B, max_size=B))
@hypothesis.settings(deadline=None, max_examples=100)
def test_bgpo_never_exceeds_what_it_bounds(score, old, advantage):
  score, old = (np.float32(x).reshape(N, B) for x in (score, old))
  bgpo, vrpo, _ = map(np.asarray, three_losses(
    score, old, np.float32(advantage)))
  # Both are rounded; the slack is a few ulps of the larger of their terms.
  terms = np.exp(np.abs(score - old)).mean(0) * np.abs(np.float32(advantage))
  assert (-bgpo <= -vrpo + 1e-6 * (1 + terms)).all()


def test_the_bound_is_strict_once_draws_differ():
  score, old, advantage = case(5)
  bgpo, vrpo, _ = three_losses(score, old, advantage)
  live = advantage != 0
  assert (np.asarray(-bgpo)[live] < np.asarray(-vrpo)[live]).all()


def test_descent_raises_good_scores_and_lowers_bad_ones():
  score, old, advantage = case(6)
  _, (grad, _) = bgpo_and_gradients(score, old, advantage)
  np.testing.assert_array_equal(
    np.sign(-np.asarray(grad)), np.tile(np.sign(advantage), (N, 1)))


def test_a_bad_score_that_fell_is_pushed_less_and_one_that_rose_more():
  old = np.zeros((N, B), np.float32)
  score = np.tile(np.float32([[-1.0], [0.0], [1.0], [2.0]]), (1, B))
  _, (grad, _) = bgpo_and_gradients(score, old, -np.ones(B, np.float32))
  assert (np.diff(np.asarray(grad), axis=0) > 0).all()
  _, (grad, _) = bgpo_and_gradients(score, old, np.ones(B, np.float32))
  assert (np.diff(np.asarray(grad), axis=0) == 0).all()


def test_extreme_changes_stay_finite_where_exp_would_overflow():
  old = np.zeros((N, B), np.float32)
  delta = np.float32([1e4, 1e4, 1e4, -1e4, -1e4, -1e4])
  advantage = np.float32([2.0, 0.0, -2.0, 2.0, 0.0, -2.0])
  loss, (grad, _) = bgpo_and_gradients(
    np.tile(delta, (N, 1)), old, advantage)
  steep = 2 * np.exp(40.0)  # from there on exp is its tangent
  np.testing.assert_allclose(loss, [
    -2 * (1 + 1e4), 0, steep * (1e4 - 39), -2 * (1 - 1e4), 0, 0], rtol=1e-5)
  np.testing.assert_allclose(grad, np.tile(
    [-0.5, 0, steep / N, -0.5, 0, 0], (N, 1)), rtol=1e-5)


def test_an_overflow_of_one_row_does_not_reach_its_neighbours():
  score, old, advantage = case(7)
  _, (grad, _) = bgpo_and_gradients(score, old, advantage)
  score[:, 1] = 1e4  # row 1 has a negative advantage
  _, (spoiled, _) = bgpo_and_gradients(score, old, advantage)
  rest = np.arange(B) != 1
  np.testing.assert_array_equal(
    np.asarray(spoiled)[:, rest], np.asarray(grad)[:, rest])


def test_no_advantage_no_loss_and_no_gradient():
  score, old, _ = case(8, spread=3.0)
  loss, (grad, _) = bgpo_and_gradients(score, old, np.zeros(B, np.float32))
  np.testing.assert_array_equal(loss, 0)
  np.testing.assert_array_equal(grad, 0)


def test_delta_is_the_mean_absolute_change():
  score, old, advantage = case(10)
  _, metrics = losses.bgpo(score, old, advantage)
  np.testing.assert_allclose(
    metrics["delta"], np.abs(score.astype(np.float64) - old).mean(0), rtol=1e-5)


# The published code's ways of averaging [b, t] terms p under a mask.
AGGREGATE = {
  "token-mean": lambda p, m: (p * m).sum() / (m.sum() + 1e-8),
  "seq-mean-token-sum": lambda p, m: (p * m).sum(1).mean(),
  "seq-mean-token-mean": lambda p, m: ((p * m).sum(1) / m.sum(1)).mean(),
  "seq-mean-token-sum-norm": lambda p, m: (p * m).sum() / m.shape[1],
}
AGGREGATE_SLOPE = {
  "token-mean": lambda m: m / (m.sum() + 1e-8),
  "seq-mean-token-sum": lambda m: m / len(m),
  "seq-mean-token-mean": lambda m: m / m.sum(1, keepdims=True) / len(m),
  "seq-mean-token-sum-norm": lambda m: m / m.shape[1],
}


@pytest.mark.shared_data
@pytest.mark.parametrize("high", [0.2, 0.28])
@pytest.mark.parametrize("how", sorted(AGGREGATE))
def test_golden_bgpo_is_ours_between_its_clips(shared, how, high):
  golden = np.load(shared / "golden" / "losses.npz")
  old, new, a, mask = (golden[f"bgpo.{k}"] for k in (
    "old_l_theta", "l_theta", "advantages", "response_mask"))
  name = f"bgpo.{how}.clip0.2_{high}"
  # The published loss is per token: every token is a row with one draw.
  loss, (grad, _) = bgpo_and_gradients(
    *(x.reshape(1, -1) for x in (new, old)), a.reshape(-1))
  ours = np.asarray(loss, np.float64).reshape(a.shape)
  slope = np.asarray(grad, np.float64).reshape(a.shape)

  ratio = np.where(a > 0, 1 + (new - old), np.exp(new - old))
  free = np.where(a > 0, ratio <= 1 + high, (ratio >= 0.8) & (ratio <= 3))
  want = golden[f"{name}.grad_l_theta"]
  inside = (mask > 0) & free & (a != 0)
  assert (a[inside] > 0).any()
  assert (a[inside] < 0).any()
  np.testing.assert_allclose(
    (AGGREGATE_SLOPE[how](mask) * slope)[inside], want[inside],
    atol=2e-5 * np.abs(want).max(), rtol=0)
  assert (~free & (mask > 0)).any()
  np.testing.assert_array_equal(want[~inside], 0)

  # With their pessimistic and dual clips applied to ours, the values agree.
  clipped = np.where(
    a > 0, np.maximum(ours, -a * (1 + high)),
    np.minimum(np.maximum(ours, -a * 0.8), -a * 3))
  value = golden[f"{name}.loss"]
  np.testing.assert_allclose(
    AGGREGATE[how](clipped, mask.astype(np.float64)), value, rtol=2e-5)


@pytest.mark.shared_data
def test_golden_elbo_per_length(shared):
  golden = np.load(shared / "golden" / "losses.npz")
  logps, mask, p, length, want = (golden[f"bgpo_elbo.{k}"] for k in (
    "token_logp", "mask_indices", "p_mask", "response_length", "elbo_per_len"))
  weight = np.where(mask, 1 / np.where(mask, p, 1), 0).astype(np.float32)
  b, n, t = logps.shape

  def total(logps):
    score = elbo.score(logps, weight.reshape(b * n, t), jnp.float32(length))
    return jnp.sum(score), score

  grad, score = jax.grad(total, has_aux=True)(logps.reshape(b * n, t))
  np.testing.assert_allclose(
    score.reshape(b, n), want, atol=2e-5 * np.abs(want).max(), rtol=0)
  want = golden["bgpo_elbo.grad_of_sum_wrt_token_logp"]
  np.testing.assert_allclose(
    grad.reshape(want.shape), want, atol=2e-5 * np.abs(want).max(), rtol=0)


def test_an_elbo_estimate_may_have_a_norm_per_response():
  logps = jnp.array([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]])
  weight = jnp.array([[3.0, 0.0, 0.0], [0.0, 1.5, 1.5]])
  np.testing.assert_allclose(
    elbo.score(logps, weight, jnp.array([1.0, 3.0])), [-3.0, -5.5])


def test_the_former_name_of_responses_is_the_same_class():
  assert losses.Rows is losses.Responses
