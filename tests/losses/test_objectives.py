"""Every objective: exact gradients through the harness, at constant memory."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_objectives import METHODS
from tiny_objectives import B
from tiny_objectives import T
from tiny_objectives import made
from tiny_objectives import problem
from tiny_objectives import scorer

from dlrl import losses
from dlrl.diffusion import montecarlo
from dlrl.losses import floats

every = pytest.mark.parametrize("name", sorted(losses.OBJECTIVES))
values = pytest.mark.usefixtures("unoptimized")


def both(name, n, **policies):
  """((loss, metrics), gradients), one draw at a time and stacked."""
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
  if name == "espo":  # the measure does show memory that grows
    stacked = montecarlo.stacked_value_and_grad
    assert temporaries(60, stacked) > 4 * temporaries(6, stacked)


def forwards(name, n):
  """How often the program evaluates the network on a draw."""
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


@every
def test_a_reference_is_needed_exactly_where_there_is_a_kl_to_it(name):
  of = losses.OBJECTIVES[name]
  if "kl_coef" in inspect.signature(of).parameters:
    for coef in (0.0, 0.1):
      objective = of(kl_coef=coef)
      assert objective.needs_ref == (coef > 0 and name != "trace_rl")
      assert objective.skips_zero == (coef == 0 and name != "gdsd")
  else:
    assert of().needs_ref == (name == "vrpo_offline")
    assert of().skips_zero


def test_scores_may_be_per_token_where_the_loss_has_no_length_of_its_own():
  takes = {name for name, of in losses.OBJECTIVES.items() if of().takes_norm}
  assert takes == {
    "bgpo", "bgpo_clipped", "ebpo", "elbo_reinforce", "vrpo_online"}


def test_only_losses_of_tokens_have_those_of_other_policies_kept():
  others = {name: of().others for name, of in losses.OBJECTIVES.items()}
  assert others.pop("coupled_grpo") == "means"
  assert {name for name, kept in others.items() if kept == "tokens"} == {
    "diffu_grpo", "trace_rl", "unigrpo"}


@every
@values
def test_the_loss_reads_no_more_of_other_policies_than_it_says(name):
  """What it may not read is given otherwise: its value stays."""
  objective, (_, rows, params, old, ref) = made(name), problem()
  score = scorer(name, 6, old=old, ref=ref)
  total, weight = jax.tree.map(lambda x: jnp.sum(x, 0), jax.vmap(
    lambda j: jax.tree.map(lambda x: floats.weighted(
      x, score(params, j)[0].weight), (
        score(params, j)[0][1:3], jnp.ones((B, T)))))(jnp.arange(6)))

  def kept(params, j):
    draw, metrics = score(params, j)
    others = draw[1:3]
    if objective.others == "scores":
      others = [draw.score(x) for x in others]
    if objective.others == "means":
      others = [x / jnp.where(weight > 0, weight, 1.0) for x in total]
    return draw._replace(old_logps=others[0], ref_logps=others[1]), metrics

  got, want = (jax.jit(lambda p, f=f: montecarlo.value_and_grad(
    objective, f, rows, p, 6))(params) for f in (kept, score))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(
    a, b, rtol=1e-4, atol=1e-6 * max(1.0, abs(b).max())), got, want)


def test_only_two_losses_compare_rows():
  together = {name: of().together for name, of in losses.OBJECTIVES.items()}
  assert together.pop("vrpo_offline") == 2
  assert together.pop("stable_drl") == 8
  assert set(together.values()) == {1}


# Configs and checkpoints of runs name only the settings that differ.
DEFAULTS = {
  "bgpo_clipped": {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0},
  "coupled_grpo": {"clip_low": 0.5, "clip_high": 0.5, "kl_coef": 0.0},
  "diffu_grpo": {"clip_low": 0.5, "clip_high": 0.5, "kl_coef": 0.0},
  "ebpo": {"clip_low": 0.2, "clip_high": 0.2},
  "espo": {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0, "kl": "k2"},
  "gdsd": {"clip": 4e-4, "psi": 1.0, "kl_coef": 0.0},
  "spg": {"beta": 1.5, "mix": 0.5},
  "stable_drl": {"clip_low": 0.2, "clip_high": 0.2, "group_size": 8},
  "trace_rl": {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.01},
  "unigrpo": {"clip_low": 0.2, "clip_high": 0.2, "kl_coef": 0.0},
  "vrpo_offline": {"beta": 0.2},
}


@every
def test_defaults_of_settings_stay_what_runs_rely_on(name):
  parameters = inspect.signature(losses.OBJECTIVES[name]).parameters
  assert {k: p.default for k, p in parameters.items()} == DEFAULTS.get(name, {})


def test_unknown_kl_estimators_are_named():
  x = jnp.zeros((2, B))
  with pytest.raises(ValueError, match=r"'k4'; use k1, k2, k3"):
    losses.kl(x, x, "k4")


@pytest.mark.parametrize(("loss", "ref"), [
  (losses.espo, "ref_score"), (losses.gdsd, "ref_score"),
  (losses.diffu_grpo, "ref_logps"), (losses.unigrpo, "ref_logps")])
def test_a_kl_without_a_reference_is_refused(loss, ref):
  x = jnp.zeros((2, B, T))
  x, more = (x, {"mask": x == 0}) if ref == "ref_logps" else (
    x[..., 0], {"length": T})
  with pytest.raises(ValueError, match=rf"{loss.__name__}: .*0\.1.* {ref} is"):
    loss(x, x, jnp.zeros(B), clip=0.2, kl_coef=0.1, **more)
  loss(x, x, jnp.zeros(B), clip=0.2, kl_coef=0.0, **more)
