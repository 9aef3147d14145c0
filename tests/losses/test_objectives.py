"""Every objective: exact gradients through the harness, at constant memory."""


import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_objectives import METHODS
from tiny_objectives import B
from tiny_objectives import made
from tiny_objectives import problem
from tiny_objectives import scorer

from dlrl import losses
from dlrl.diffusion import montecarlo

every = pytest.mark.parametrize("name", sorted(losses.OBJECTIVES))
values = pytest.mark.usefixtures("unoptimized")


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
