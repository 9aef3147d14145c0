"""Every objective: exact gradients through the harness, at constant memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl import losses
from dlrl.diffusion import masks
from dlrl.diffusion import montecarlo

B, T, D, V = 6, 6, 64, 7  # D: so that the draws' indices weigh nothing

# Each loss with the draws it was made for, and knobs that all take effect.
METHODS = {
  "bgpo": ("stratified", {}),
  "bgpo_clipped": ("stratified", {"clip_low": 0.1, "clip_high": 0.1}),
  "coupled_grpo": ("coupled", {"clip_high": 0.2, "kl_coef": 0.1}),
  "diffu_grpo": ("all_masked", {"clip_low": 0.2, "kl_coef": 0.1}),
  "ebpo": ("quadrature", {"clip_low": 0.1}),
  "elbo_reinforce": ("continuous", {}),
  "espo": ("complementary", {"clip_low": 0.1, "kl_coef": 0.1}),
  "gdsd": ("exact_k", {"clip": 0.9, "psi": 0.1, "kl_coef": 0.1}),
  "spg": ("block", {"mix": 0.7}),
  "stable_drl": ("complementary", {"clip_low": 0.01, "group_size": 3}),
  "trace_rl": ("left_to_right", {"kl_coef": 0.2}),
  "unigrpo": ("random_ratio", {"kl_coef": 0.1}),
  "vrpo_offline": ("stratified", {"beta": 0.5}),
  "vrpo_online": ("stratified", {}),
}
KNOBS = {"block": {"block_length": 3}}
every = pytest.mark.parametrize("name", sorted(losses.OBJECTIVES))
values = pytest.mark.usefixtures("unoptimized")


@functools.cache
def problem():
  """(targets, rows, parameters of the policy, the rollout's, the reference)."""
  rng = np.random.default_rng(0)
  targets = jnp.asarray(rng.integers(0, V, (B, T)))
  valid = jnp.asarray(np.arange(T) < np.array([6, 4, 6, 5, 6, 3])[:, None])
  advantage = jnp.asarray([1.0, -0.5, -0.5, 0.8, -0.8, 0.0], jnp.float32)
  tokens = jnp.full(B, valid.sum() / B, jnp.float32)
  params = {
    "embed": jnp.asarray(rng.normal(size=(V + 1, D)), jnp.float32),
    "head": jnp.asarray(rng.normal(size=(D, V)) / D**0.5, jnp.float32)}
  moved = [jax.tree.map(
    lambda x: x + 0.15 * jnp.asarray(rng.normal(size=x.shape), x.dtype),
    params) for _ in range(2)]
  return targets, losses.Rows(advantage, valid, tokens), params, *moved


def logps_of(params, targets, mask):
  """A network in which every position sees the mean of what is visible."""
  seen = params["embed"][jnp.where(mask, V, targets)]
  hidden = jnp.tanh(seen + jnp.mean(seen, 1, keepdims=True))
  logps = jax.nn.log_softmax(hidden @ params["head"])
  picked = jnp.take_along_axis(logps, targets[..., None], -1)[..., 0]
  return jnp.where(mask, picked, 0.0)


def scorer(name, n, old=None, ref=None):
  targets, rows, *_ = problem()
  process = functools.partial(
    masks.PROCESSES[METHODS[name][0]], **KNOBS.get(METHODS[name][0], {}))
  keys = jax.random.split(jax.random.key(1), B)

  def score(params, j):
    mask, weight = process(keys, rows.valid, j, n)
    logps, *others = (
      None if p is None else logps_of(p, targets, mask)
      for p in (params, old, ref))
    others[0] = jax.lax.stop_gradient(logps) if old is None else others[0]
    scored = losses.Scored(logps, *others, mask, weight)
    return scored, {"score": scored.score(logps)}

  return score


def made(name):
  return losses.OBJECTIVES[name](**METHODS[name][1])


def both(name, n, **policies):
  """Harness and oracle: ((loss, metrics), gradients) of each."""
  _, rows, params, *_ = problem()
  score = scorer(name, n, **policies)
  return tuple(
    jax.jit(lambda p, f=f: f(made(name), score, rows, p, n))(params)
    for f in (montecarlo.value_and_grad, montecarlo.stacked_value_and_grad))


def gradient(name, score, rows, params):
  return jax.jit(lambda rows, params: montecarlo.value_and_grad(
    made(name), score, rows, params, 6)[1])(rows, params)


def test_every_objective_has_its_test():
  assert METHODS.keys() == losses.OBJECTIVES.keys()


@every
@values
def test_value_and_gradient_are_those_of_all_draws_at_once(name):
  *_, old, ref = problem()
  some = [{"ref": ref}] if name in ("bgpo", "espo") else []  # on-policy
  for policies in (*some, {"old": old, "ref": ref}):
    got, want = both(name, 6, **policies)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, rtol=1e-5, atol=1e-6 * max(1.0, abs(b).max())), got, want)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(want[1])) > 1e-4


@every
@values
def test_rows_without_an_advantage_are_inert_if_it_says_so(name):
  _, rows, params, old, ref = problem()
  score = scorer(name, 6, old=old, ref=ref)
  rows = rows._replace(advantage=jnp.zeros(B))
  grads = gradient(name, score, rows, params)
  largest = max(float(abs(x).max()) for x in jax.tree.leaves(grads))
  if made(name).skips_zero:
    assert largest < 1e-7
  else:
    assert largest > 1e-5


@every
@values
def test_a_step_makes_good_completions_likelier_and_bad_ones_not(name):
  _, rows, params, *_ = problem()
  score = scorer(name, 6, ref=params)
  grads = gradient(name, score, rows, params)

  @jax.jit
  def total(params):
    def of_draw(j):
      scored, _ = score(params, j)
      return scored.score(scored.logps)

    return jnp.sum(jax.lax.map(of_draw, jnp.arange(6)), 0)

  moved = jax.tree.map(lambda x, g: x - 1e-2 * g, params, grads)
  change = total(moved) - total(params)
  assert float(jnp.sum(change * rows.advantage)) > 0


@every
def test_temporaries_do_not_grow_with_the_draws(name):
  _, rows, params, old, ref = problem()

  def temporaries(n, value_and_grad):
    score = scorer(name, n, old=old, ref=ref)
    program = jax.jit(
      lambda p: value_and_grad(made(name), score, rows, p, n))
    return program.lower(params).compile().memory_analysis(
      ).temp_size_in_bytes

  few = temporaries(6, montecarlo.value_and_grad)
  assert temporaries(60, montecarlo.value_and_grad) <= 1.02 * few
  if name == "espo":  # the check sees what it is there for
    stacked = montecarlo.stacked_value_and_grad
    assert temporaries(60, stacked) > 4 * temporaries(6, stacked)


def forwards(name, n):
  """How often a program evaluates the network; twice in a backward pass."""
  _, rows, params, old, _ = problem()
  calls = []
  score = scorer(name, n, old=old, ref=old)

  def counted(params, j):
    jax.debug.callback(lambda: calls.append(1))
    return score(params, j)

  jax.block_until_ready(jax.jit(lambda p: montecarlo.value_and_grad(
    made(name), counted, rows, p, n))(params))
  jax.effects_barrier()
  return len(calls)


@every
@values
def test_separable_losses_take_one_pass_and_joint_ones_two(name):
  passes = 1 if isinstance(made(name), losses.Separable) else 2
  assert forwards(name, 6) == 6 * passes


def test_unknown_kl_estimators_and_missing_references_are_named():
  x = jnp.zeros((2, B))
  with pytest.raises(ValueError, match="k4"):
    losses.kl(x, x, "k4")
  with pytest.raises(ValueError, match="ref_score"):
    losses.espo(x, x, jnp.zeros(B), length=2, clip=0.2, kl_coef=0.1)
  with pytest.raises(ValueError, match="ref_logps"):
    losses.diffu_grpo(x, x, jnp.zeros(2), x > 0, clip=0.2, kl_coef=0.1)
