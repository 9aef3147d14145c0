"""Finite inputs give finite losses and gradients, whatever the scores."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_objective_forms import FORMS
from updates import FAST

from dlrl import losses
from dlrl.diffusion import elbo
from dlrl.diffusion import montecarlo
from dlrl.losses import floats

pytestmark = pytest.mark.usefixtures("unoptimized")

N, B, T = 2, 6, 3
every = pytest.mark.parametrize("name", sorted(losses.OBJECTIVES))
VALID = np.arange(T) < np.array([3, 2, 3, 1, 3, 3])[:, None]
# Each token is masked in one draw, as `coupled` does in its last two.
MASK = np.stack([np.arange(T) % 2 == 0, np.arange(T) % 2 == 1])[:, None] & VALID


def rows_of(advantage):
  return losses.Responses(
    advantage, jnp.asarray(VALID), jnp.full(B, VALID.sum() / B, jnp.float32))


def draws_of(logps, old, ref):
  mask = jnp.asarray(MASK)
  return losses.Scored(logps, old, ref, mask, jnp.where(mask, 1.7, 0.0))


def finite(tree):
  return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


@functools.cache
def by_draws(name):
  """(logps, old, ref, advantage) -> ((loss, metrics), gradients)."""
  @functools.partial(jax.jit, compiler_options=FAST)
  def run(logps, old, ref, advantage):
    def score(logps, j):
      draws = draws_of(logps, old, ref)
      draw = jax.tree.map(lambda x: x[j], draws)
      return draw, {"score": draw.score(draw.logps)}

    return montecarlo.value_and_grad(
      losses.OBJECTIVES[name](**FORMS[name][0]), score, rows_of(advantage),
      logps, N)

  return run


@functools.cache
def at_once(name):
  """The same of the public function."""
  def mean(logps, old, ref, advantage):
    draws = draws_of(logps, old, ref)
    scores = (draws.score(x) for x in (logps, old, ref))
    loss, metrics = FORMS[name][1](draws, *scores, rows_of(advantage))
    return jnp.mean(loss), metrics

  return jax.jit(jax.value_and_grad(mean, has_aux=True), compiler_options=FAST)


number = st.floats(-1e4, 1e4, width=32) | st.sampled_from(
  [-1e4, -89.0, -1.0, 0.0, 1.0, 89.0, 1e4])


@every
@hypothesis.given(arrays.arrays(np.float32, (3, N, B, T), elements=number),
                  arrays.arrays(np.float32, B, elements=number))
@hypothesis.settings(
  deadline=None, max_examples=60,
  suppress_health_check=[hypothesis.HealthCheck.too_slow,
                         hypothesis.HealthCheck.function_scoped_fixture])
def test_any_scores_and_advantages_give_finite_gradients(
  name, policies, advantage
):
  for form in (by_draws(name), at_once(name)):
    out = form(*policies, advantage)
    assert finite(out), out


@every
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_moved_far_give_finite_gradients(name, sign):
  for far in (80.0, 89.0, 95.0, 700.0, 1e4):
    moved = np.full((N, B, T), sign * far, np.float32)
    still = np.zeros_like(moved)
    for a in (1.0, -1.0, 1e4, -1e4):
      advantage = np.float32([a, -a, 0, a, -a, a])
      for form in (by_draws(name), at_once(name)):
        for policies in ((moved, still, still), (still, moved, still),
                         (still, still, moved), (moved, moved, moved)):
          assert finite(form(*policies, advantage)), (far, a)


@every
def test_log_probs_off_the_mask_may_be_anything(name):
  rng = np.random.default_rng(0)
  policies = -rng.exponential(size=(3, N, B, T)).astype(np.float32)
  advantage = rng.normal(size=B).astype(np.float32)
  for form in (by_draws(name), at_once(name)):
    want = form(*np.where(MASK, policies, 0), advantage)
    for other in (-np.inf, np.nan, 1e4):
      got = form(*np.where(MASK, policies, np.float32(other)), advantage)
      jax.tree.map(np.testing.assert_array_equal, got, want)


def slope_and_loss(loss, x):
  """Gradient of the sum of a loss [b], and the loss."""
  def total(x):
    each, _ = loss(x)
    return jnp.sum(each), each

  return jax.grad(total, has_aux=True)(jnp.asarray(x, jnp.float32))


def test_a_row_that_the_dual_clip_limits_has_no_gradient():
  slope, loss = slope_and_loss(lambda x: losses.bgpo_clipped(
    x, jnp.zeros((1, 2)), jnp.array([1.0, -1.0]), clip=0.2, dual_clip=3.0),
    [[0.0, 95.0]])
  np.testing.assert_array_equal(loss, [-1, 3])
  np.testing.assert_array_equal(slope, [[-1, 0]])


UP = 95.0  # exp of it is too large for fp32
CLIPPED = {
  "espo": lambda x, a: losses.espo(
    x[None], jnp.zeros((1, 3)), a, length=1, clip=0.2),
  "diffu_grpo": lambda x, a: losses.diffu_grpo(
    x[:, None], jnp.zeros((3, 1)), a, jnp.ones((3, 1), bool), clip=0.2),
  "unigrpo": lambda x, a: losses.unigrpo(
    x[None, :, None], jnp.zeros((1, 3, 1)), a, jnp.ones((1, 3, 1), bool),
    clip=0.2),
  "trace_rl": lambda x, a: losses.trace_rl(
    x[None, :, None], jnp.zeros((1, 3, 1)), a, jnp.ones((1, 3, 1), bool),
    clip=0.2),
  "coupled_grpo": lambda x, a: losses.coupled_grpo(
    x[None, :, None], jnp.zeros((1, 3, 1)), jnp.ones((1, 3, 1)), a,
    jnp.ones((3, 1), bool), clip=0.2),
}


@pytest.mark.parametrize("name", sorted(CLIPPED))
def test_a_clip_is_exact_however_far_the_ratio_is(name):
  advantage = jnp.array([2.0, -2.0, 2.0])
  for far in (UP, 1e4):
    slope, loss = slope_and_loss(
      lambda x: CLIPPED[name](x, advantage), [far, -far, 0.0])
    np.testing.assert_allclose(loss, [-2.4, 1.6, -2.0], rtol=1e-6)
    np.testing.assert_array_equal(slope[:2], 0)
    assert slope[2] == -2


@pytest.mark.parametrize("name", sorted(CLIPPED))
def test_a_bad_response_that_rose_without_a_limit_is_pushed_back(name):
  slope, loss = slope_and_loss(
    lambda x: CLIPPED[name](x, jnp.full(3, -1.0)), [UP, 0.0, 0.0])
  assert np.isfinite(loss).all()
  assert np.isfinite(slope).all()
  assert slope[0] > 1e15  # descent lowers its score


def test_exp_is_exp_up_to_where_it_becomes_a_line():
  x = jnp.linspace(-100.0, floats.STEEP, 999, dtype=jnp.float32)
  np.testing.assert_array_equal(floats.exp(x), jnp.exp(x))
  slope = jax.vmap(jax.grad(floats.exp))
  np.testing.assert_array_equal(slope(x), jnp.exp(x))
  beyond = jnp.array([40.0, 41.0, 89.0, 1e4, 1e10])
  np.testing.assert_allclose(
    floats.exp(beyond), np.exp(40.0) * (1 + np.float64(beyond) - 40),
    rtol=1e-5)
  np.testing.assert_allclose(slope(beyond), np.exp(40.0), rtol=1e-5)


def test_a_group_whose_ratios_are_all_clipped_to_zero_has_no_gradient():
  slope, loss = slope_and_loss(lambda x: losses.stable_drl(
    x, jnp.zeros((1, 4)), jnp.array([1.0, -1.0, 1.0, -1.0]), length=1,
    clip=(1.0, 0.2), group_size=2), [[-1e4, -1e4, 0.0, 0.0]])
  np.testing.assert_array_equal(slope, [[0, 0, -1, 1]])
  assert np.isfinite(loss).all()


def test_an_elbo_ignores_what_has_no_weight():
  logps = jnp.array([[-1.0, -np.inf, -2.0]])
  weight = jnp.array([[2.0, 0.0, 3.0]])
  value, slope = jax.value_and_grad(
    lambda x: elbo.score(x, weight, 4.0)[0])(logps)
  assert value == -2
  np.testing.assert_array_equal(slope, weight / 4)


def test_spg_keeps_the_slope_of_improbable_tokens():
  """Against the same in float64; the powers are as small as fp32 has them."""
  beta, logps = 1.5, np.array([[[-50.0, -1.0]]])
  weight, mask = jnp.ones((1, 1, 2)), jnp.ones((1, 2), bool)
  for a in (-1.0, -1e4):
    slope, loss = slope_and_loss(lambda x, a=a: losses.spg(
      x, weight, jnp.array([a]), mask, beta=beta, mix=1.0), logps)
    np.testing.assert_allclose(loss, -a * logps.mean(), rtol=1e-5)
    np.testing.assert_allclose(slope, np.full((1, 1, 2), -a / 2), rtol=1e-5)
