"""The update of several objectives against all draws in memory at once."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from updates import FAST
from updates import LEARN
from updates import assert_same
from updates import first_state
from updates import jitted
from updates import make_batch
from updates import recorder
from updates import take
from updates import tiny

from benchmarks import method_cost
from dlrl import losses
from dlrl import strict
from dlrl import update
from dlrl.diffusion import montecarlo


@functools.partial(jax.jit, static_argnums=0, compiler_options=FAST)
def objective_of_stacked(learn, params, batch, old, ref):
  """((loss, metrics), gradient) with every draw in memory at once.

  `old` are the parameters that made the rollout, `ref` the reference's or None.
  """
  def score(params, j):
    draw, (logps, _) = update.draw_logps(tiny()[0], learn, params, batch, j)
    others = [p if p is None else update.draw_logps(
      tiny()[0], learn, p, batch, j)[1].logps for p in (old, ref)]
    return losses.Scored(logps, *others, *draw), {}

  b = len(batch.advantage)
  rows = losses.Responses(batch.advantage, batch.maskable, jnp.full(
    b, batch.maskable.sum() / b))
  return montecarlo.stacked_value_and_grad(
    losses.OBJECTIVES[learn.loss](**learn.loss_args), score, rows, params,
    learn.n_mc)


@pytest.mark.slow
def test_a_reference_is_scored_on_the_same_draws():
  learn = dataclasses.replace(
    LEARN, loss="espo", loss_args=strict.Knobs(kl_coef=0.5), score_norm="none",
    forward_process="exact_k", prompt_noise=0.3)
  (model, params), batch = tiny(), make_batch()
  ref = networks.random_params(model, seed=1)
  state, metrics = jitted(learn)(
    dataclasses.replace(first_state(params, recorder()), ref_params=ref), batch)
  (loss, wanted), want = objective_of_stacked(learn, params, batch, params, ref)
  assert_same(state.opt_state.inner_state, want, rtol=1e-4)
  # The rows without an advantage count: the reference holds them.
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4)
  np.testing.assert_allclose(metrics["kl"], wanted["kl"].mean(), rtol=1e-4)
  assert metrics["kl"] > 0.01
  jax.tree.map(np.testing.assert_array_equal, state.ref_params, ref)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "knobs"), [
  ("diffu_grpo", {}), ("stable_drl", {"group_size": 2}),
  ("coupled_grpo", {"kl_coef": 0.2}), ("espo", {"kl_coef": 0.2}),
  ("vrpo_online", {})])
def test_off_policy_micro_batches_sum_to_the_stacked_objective(loss, knobs):
  learn = dataclasses.replace(
    LEARN, loss=loss, loss_args=strict.Knobs(knobs), score_norm="none",
    updates_per_rollout=2)
  (model, params), batch = tiny(), make_batch()
  ref = networks.random_params(model, seed=1) if knobs.get("kl_coef") else None
  state, metrics = jitted(learn)(dataclasses.replace(
    first_state(params, recorder()), ref_params=ref), batch)
  last = state.opt_state.inner_state

  # Two updates of two micro-batches each; rows of a group are neighbours.
  parts = [take(batch, range(4)), take(batch, range(4, 8))]
  moved, found = params, []
  for part in parts:
    value, grads = objective_of_stacked(learn, moved, part, params, ref)
    moved = jax.tree.map(lambda x, g: x - g, moved, grads)
    found.append(value)
  assert_same(last, grads, rtol=1e-4)
  assert_same(state.params, moved)
  np.testing.assert_allclose(
    metrics["loss"], np.mean([loss for loss, _ in found]), rtol=1e-4, atol=1e-5)
  assert metrics["delta"] > 0.01
  # A ratio is clipped here, or a clip that is not there would not show.
  assert loss == "vrpo_online" or found[1][1]["clip"].max() > 0
  assert ref is None or metrics["kl"] > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["espo", "coupled_grpo", "unigrpo"])
def test_log_probs_of_other_policies_take_no_memory_that_counts(name):
  """Scores, means and tokens, with a reference, as the losses' configs say.

  Two micro-batches of the tiny Sudoku model; one stands for those that follow.
  """
  learn = method_cost.settings(name)
  assert losses.OBJECTIVES[name](**learn.loss_args).needs_ref

  def temporaries(n_mc):
    run, shapes = method_cost.program(
      dataclasses.replace(learn, n_mc=n_mc), 2 * learn.micro_batch)
    return jax.jit(run).lower(*shapes).compile(
      FAST).memory_analysis().temp_size_in_bytes

  few, many = (3, 63) if name == "coupled_grpo" else (2, 64)
  assert temporaries(many) <= 1.02 * temporaries(few)
