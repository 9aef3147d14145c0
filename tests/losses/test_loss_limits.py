"""Special cases in which methods agree, extreme inputs, vmap and sharding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_objectives
from jax.sharding import AxisType
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from updates import FAST

from dlrl import losses
from dlrl.diffusion import montecarlo
from dlrl.diffusion import token_logps

pytestmark = pytest.mark.usefixtures("unoptimized")

B, T = tiny_objectives.B, tiny_objectives.T
N = 6
every = pytest.mark.parametrize("name", sorted(losses.OBJECTIVES))


@functools.cache
def result(objective, process="stratified", old=False):
  """((loss, metrics), gradients) on draws of the given process."""
  _, rows, params, moved, _ = tiny_objectives.problem()
  name = next(name for name, (of, _) in tiny_objectives.METHODS.items()
              if of == process)
  score = tiny_objectives.scorer(name, N, old=moved if old else None)
  return jax.jit(lambda p: montecarlo.value_and_grad(
    objective, score, rows, p, N), compiler_options=FAST)(params)


def same(a, b, rtol=1e-4):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      x, y, rtol=0, atol=rtol * float(abs(y).max()) + 1e-7), a[1], b[1])


def scaled(pair, factor):
  return pair[0], jax.tree.map(lambda x: factor * x, pair[1])


@functools.cache
def objective(name, **knobs):
  return losses.OBJECTIVES[name](**knobs)


SEQUENCE = ["bgpo", "bgpo_clipped", "ebpo", "elbo_reinforce", "vrpo_online"]


@pytest.mark.parametrize("name", SEQUENCE)
def test_sequence_losses_have_one_gradient_on_policy(name):
  want = result(objective("elbo_reinforce"))
  same(result(objective(name)), want)
  if name != "elbo_reinforce":
    off = result(objective(name), old=True)
    with pytest.raises(AssertionError):
      same(off, result(objective("elbo_reinforce"), old=True))


@pytest.mark.parametrize("name", ["espo", "stable_drl"])
def test_ratios_per_token_have_that_gradient_per_token(name):
  knobs = {"group_size": 3} if name == "stable_drl" else {}
  same(result(objective(name, **knobs)),
       scaled(result(objective("elbo_reinforce")), 1 / T))


WIDE = {"clip_low": 1e9, "clip_high": 1e9}


def test_clips_that_are_wide_do_nothing():
  clipped = objective("bgpo_clipped", **WIDE, dual_clip=1e9)
  same(result(clipped, old=True), result(objective("bgpo"), old=True))
  same(result(objective("ebpo", **WIDE), old=True),
       result(objective("vrpo_online"), old=True))


def test_bgpo_bounds_the_ratio_of_elbos_and_meets_it_with_one_sign():
  _, rows, params, moved, _ = tiny_objectives.problem()
  score = tiny_objectives.scorer("bgpo", N, old=moved)
  draws = [score(params, j)[0] for j in range(N)]
  new = jnp.stack([d.score(d.logps) for d in draws])
  old = jnp.stack([d.score(d.old_logps) for d in draws])
  for a in (rows.advantage, -rows.advantage):
    bound = -losses.bgpo(new, old, a)[0]
    value = -losses.vrpo_online(new, old, a)[0]
    assert (bound <= value + 1e-5 * abs(value)).all()
    assert (bound < value - 1e-3)[np.asarray(a) != 0].any()


def test_spg_without_a_mixture_is_its_elbo_half():
  plain = result(objective("spg", mix=0.0), "block")
  for beta in (1.0, 2.0):  # of the upper bound, whose share is 0
    same(result(objective("spg", mix=0.0, beta=beta), "block"), plain)
  with pytest.raises(AssertionError):
    same(result(objective("spg", mix=1.0), "block"), plain)


def test_token_losses_agree_on_one_pass_over_equal_lengths():
  rng = np.random.default_rng(0)
  logps, old = (-jnp.asarray(rng.exponential(size=(1, B, T)), jnp.float32)
                for _ in range(2))
  advantage = jnp.asarray(rng.normal(size=B), jnp.float32)
  mask = jnp.ones((1, B, T), bool)
  a, _ = losses.unigrpo(logps, old, advantage, mask, clip=0.3)
  b, _ = losses.diffu_grpo(logps, old, advantage, mask, clip=0.3)
  np.testing.assert_allclose(a, b, rtol=1e-5)


def test_gdsd_s_gradient_on_policy_is_reinforce_s():
  got = result(objective("gdsd", clip=0.5, psi=1.0))
  same(got, scaled(result(objective("elbo_reinforce")), 2 / T))


def test_kl_estimators_have_one_gradient_near_the_reference():
  # d/dlogp of k1 and k2 at logp = ref + d is d; of k3 it is 1 - exp(-d).
  ref = jnp.zeros(())
  for d in (1e-3, -1e-3):
    grads = [jax.grad(lambda x, k=k: losses.kl(x, ref, k))(d)
             for k in ("k2", "k3")]
    np.testing.assert_allclose(grads, d, rtol=1e-2)


@functools.cache
def compiled(name):
  """(logps, old, ref, weight) -> ((loss, metrics), gradients).

  One draw with all tokens masked; its log-probs are the parameters.
  """
  rows = losses.Responses(
    jnp.array([2.0, -2.0, 0.0, 1.0, -1.0, 0.0]), jnp.ones((B, T), bool),
    jnp.full(B, float(T)))

  @functools.partial(jax.jit, compiler_options=FAST)
  def run(logps, old, ref, weight):
    def score(logps, j):
      del j
      return losses.Scored(
        logps, old, ref, jnp.ones(logps.shape, bool), weight), {}

    return montecarlo.value_and_grad(
      tiny_objectives.made(name), score, rows, logps, 1)

  return run


EXTREMES = {
  "fallen far": (-40.0, -1.0), "risen far": (-1e-6, -14.0),
  "certain": (0.0, 0.0), "improbable": (-60.0, -60.0),
  "a bound of minus": (-3.0, -1.0)}


@every
@pytest.mark.parametrize("case", sorted(EXTREMES))
def test_values_and_gradients_stay_finite(name, case):
  """Changes of up to 84 nats per response; exp overflows at 88 in fp32."""
  new, old = (jnp.full((B, T), x) for x in EXTREMES[case])
  # Sums over 6 tokens: 84 nats up and 234 nats down.
  weight = jnp.ones((B, T))
  out = compiled(name)(new, old, old, weight)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(out)), out


@every
def test_empty_masks_and_rows_of_nothing_stay_finite(name):
  zero = jnp.zeros((B, T))
  (loss, metrics), grads = compiled(name)(zero, zero, zero, zero)
  for x in jax.tree.leaves((loss, metrics, grads)):
    assert np.isfinite(x).all()
  # The other losses have a gradient only through masked tokens.
  if name not in ("unigrpo", "trace_rl", "spg", "coupled_grpo", "diffu_grpo"):
    np.testing.assert_array_equal(grads, 0)


@every
def test_rows_without_valid_tokens_stay_finite(name):
  _, rows, params, old, ref = tiny_objectives.problem()
  rows = rows._replace(valid=rows.valid.at[1].set(False))
  score = tiny_objectives.scorer(name, N, old=old, ref=ref)
  out = jax.jit(lambda p: montecarlo.value_and_grad(
    tiny_objectives.made(name), score, rows, p, N), compiler_options=FAST)(
      params)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(out))


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
def test_extreme_bfloat16_logits_give_finite_log_probs(scale):
  rng = np.random.default_rng(0)
  hidden = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.bfloat16)
  unembed = jnp.asarray(scale * rng.normal(size=(8, 33)), jnp.bfloat16)
  # A row of one repeated token, like an answer that consists of EOS only.
  targets = jnp.asarray(np.stack([np.full(5, 1), rng.integers(0, 33, 5)]))

  def total(hidden, unembed):
    logps, _ = token_logps.token_logps(
      hidden, unembed, targets, jnp.ones((2, 5), bool), chunk=4)
    return jnp.sum(logps), logps

  (_, logps), grads = jax.value_and_grad(
    total, (0, 1), has_aux=True)(hidden, unembed)
  exact = np.asarray(hidden, np.float64) @ np.asarray(unembed, np.float64)
  want = np.take_along_axis(
    exact - np.logaddexp.reduce(exact, -1, keepdims=True),
    np.asarray(targets)[..., None], -1)[..., 0]
  np.testing.assert_allclose(logps, want, rtol=1e-4, atol=1e-4 * scale)
  assert all(np.isfinite(np.asarray(g, np.float32)).all() for g in grads)


@every
def test_jit_vmap_and_eight_devices_agree(name):
  _, rows, params, old, ref = tiny_objectives.problem()
  made = tiny_objectives.made(name)
  score = tiny_objectives.scorer(name, N, old=old, ref=ref)

  def run(params, rows):
    return montecarlo.value_and_grad(made, score, rows, params, N)

  jit = functools.partial(jax.jit, compiler_options=FAST)
  want = jit(run)(params, rows)

  def assert_same(got):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(
      x, y, rtol=1e-4, atol=1e-6), got, want)

  if name in ("bgpo", "espo", "diffu_grpo"):  # three stand for all: it is slow
    assert_same(run(params, rows))
  twice = jit(jax.vmap(run, (0, None)))(
    jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params), rows)
  assert_same(jax.tree.map(lambda x: x[0], twice))
  mesh = jax.make_mesh((2, 4), ("data", "fsdp"),
                       axis_types=(AxisType.Auto,) * 2)
  split = {"embed": P(None, "fsdp"), "head": P("fsdp", None)}
  put = functools.partial(jax.tree.map, lambda x, s: jax.device_put(
    x, NamedSharding(mesh, s)))
  assert_same(jit(run)(
    put(params, split), put(rows, losses.Responses(*(P("data"),) * 3))))
