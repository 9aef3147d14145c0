"""The update against the stacked formula, and what must not change it."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import networks
import numpy as np
import optax
import pytest
from updates import FAST
from updates import LEARN
from updates import MASK
from updates import N_MC
from updates import B
from updates import P
from updates import T
from updates import assert_same
from updates import first_state
from updates import jitted
from updates import make_batch
from updates import recorder
from updates import run
from updates import take
from updates import tiny

from dlrl import config
from dlrl import optimizer
from dlrl import update
from dlrl.diffusion import forward_process
from dlrl.diffusion import model_input
from dlrl.models import transformer


def draws(batch, name, n):
  """Masks and weights [n, b, t]."""
  process = jax.jit(forward_process.PROCESSES[name])
  made = [process(batch.keys, batch.maskable, j, n) for j in range(n)]
  return (np.stack([d.mask for d in made]), np.stack([d.weight for d in made]))


@functools.partial(jax.jit, compiler_options=FAST)
def brute_force(params, ids, lengths, first, targets, weight, old, advantage):
  """((loss, scores [n, b]), gradient) with every draw's logits at once.

  Rows are [prompt | canvas | padding], the other order than the update's.
  `old` is NaN where the scores themselves are the old ones.
  """
  n, b, t = weight.shape
  width = ids.shape[-1]

  def loss(params):
    hidden = tiny()[0].hidden(
      params, ids.reshape(n * b, width),
      jnp.tile(jnp.arange(width), (n * b, 1)), jnp.tile(lengths, n))
    columns = jnp.tile(first[:, None] + jnp.arange(t)[None], (n, 1))
    hidden = jnp.take_along_axis(hidden, columns[..., None], 1)
    logps = jax.nn.log_softmax(hidden @ params["unembed"]["kernel"])
    logps = jnp.take_along_axis(
      logps, jnp.tile(targets, (n, 1))[..., None], -1).reshape(n, b, t)
    score = jnp.sum(logps * weight, -1)
    before = jnp.where(jnp.isnan(old), jax.lax.stop_gradient(score), old)
    d, a = score - before, advantage[None]
    bound = jnp.where(a >= 0, (1 + d) * a, jnp.exp(d) * a)
    return -jnp.mean(bound), score

  return jax.value_and_grad(loss, has_aux=True)(params)


def stacked(params, batch, learn, old=None):
  """`brute_force` of a batch as the update takes it."""
  mask, weight = draws(batch, learn.forward_process, learn.n_mc)
  batch = jax.tree.map(
    np.asarray, dataclasses.replace(batch, keys=None, trace=None))
  noisy = np.where(mask, MASK, batch.completion)
  b = len(batch.advantage)
  ids = np.zeros((learn.n_mc, b, 3 + T), np.int32)
  for row, size in enumerate(batch.prompt_length):
    ids[:, row, :size] = batch.prompt[row, :size]
    ids[:, row, size:size + T] = noisy[:, row]
  if learn.score_norm == "token":
    weight = weight / np.float32(T)
  if old is None:
    old = np.full((learn.n_mc, b), np.nan, np.float32)
  return brute_force(
    params, ids, batch.prompt_length + T, batch.prompt_length,
    batch.completion, weight, old, batch.advantage)


@pytest.mark.parametrize("changes", [
  {}, {"score_norm": "none", "forward_process": "continuous"}])
def test_the_gradient_is_that_of_the_stacked_formula(changes):
  learn = dataclasses.replace(LEARN, **changes)
  batch, params = make_batch(), tiny()[1]
  grads, metrics, state = run(batch, learn)
  (loss, score), want = stacked(params, batch, learn)
  assert_same(grads, want)
  assert state.step == 1
  assert_same(state.params, jax.tree.map(lambda x, g: x - g, params, want))

  live = np.asarray(batch.advantage) != 0
  score = np.asarray(score, np.float64)[:, live]
  expected = {
    "loss": loss, "delta": 0, "delta_rms": 0, "score_mean": score.mean(),
    "score_std": score.std(0).mean(),
    "grad_norm": math.sqrt(sum(
      (np.asarray(g, np.float64)**2).sum() for g in jax.tree.leaves(want))),
    "nonfinite_in_a_row": 0, "nonfinite_total": 0,
    "computed": 0.75}  # five live rows, two in a part
  assert set(metrics) == set(expected) | {"entropy"}
  for name, value in expected.items():
    np.testing.assert_allclose(
      metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_entropy_is_the_mean_over_the_tokens_that_are_scored():
  (model, params), batch = tiny(), make_batch()
  _, metrics, _ = run(batch)
  mask, weight = draws(batch, LEARN.forward_process, N_MC)
  live = np.asarray(batch.advantage) != 0
  found = []
  for j in range(N_MC):
    row = model_input.assemble(jnp.where(mask[j], MASK, batch.completion),
                        batch.prompt, batch.prompt_length)
    logits = model.hidden(params, *row)[:, :T] @ model.unembed(params)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    entropy = -np.sum(p * np.log(p), -1)
    found.append(entropy[(weight[j] > 0) & live[:, None]])
  counts = {len(x) for x in found}
  assert len(counts) > 1  # or it would not matter what the mean is over
  want = np.concatenate(found).mean()
  np.testing.assert_allclose(metrics["entropy"], want, rtol=1e-5)
  assert 0 < want < np.log(networks.TINY.vocab_size)


@pytest.mark.slow
def test_two_updates_per_rollout_share_the_draws_and_the_old_scores():
  learn = dataclasses.replace(LEARN, updates_per_rollout=2)
  batch, params = make_batch(), tiny()[1]
  last, metrics, state = run(batch, learn)

  (_, old), _ = stacked(params, batch, LEARN)
  first, second = take(batch, range(4)), take(batch, range(4, 8))
  (loss, _), grads = stacked(params, first, LEARN, old[:, :4])
  moved = jax.tree.map(lambda x, g: x - g, params, grads)
  (other_loss, score), grads = stacked(moved, second, LEARN, old[:, 4:])
  assert_same(last, grads, rtol=1e-4)
  assert_same(state.params, jax.tree.map(lambda x, g: x - g, moved, grads))
  assert state.step == 1
  np.testing.assert_allclose(
    metrics["loss"], (loss + other_loss) / 2, rtol=1e-4, atol=1e-5)
  # The second part is off-policy, and by enough for the test to mean something.
  live = np.asarray(second.advantage) != 0
  delta = np.abs(np.asarray(score - old[:, 4:]))[:, live].mean()
  np.testing.assert_allclose(metrics["delta"], delta / 2, rtol=1e-3)
  square = np.square(np.asarray(score - old[:, 4:]))[:, live].mean()
  np.testing.assert_allclose(
    metrics["delta_rms"], np.sqrt(square) / 2, rtol=1e-3)
  assert delta > 0.01
  _, on_policy = stacked(moved, second, LEARN)
  with pytest.raises(AssertionError):
    assert_same(last, on_policy, rtol=1e-3)


def test_every_epoch_has_its_draws_and_scores_of_the_rollout_s_policy():
  learn = dataclasses.replace(LEARN, epochs=2)
  batch, params = make_batch(), tiny()[1]
  last, metrics, state = run(batch, learn)

  epochs = [dataclasses.replace(batch, keys=jax.vmap(
    lambda k, e=e: jax.random.fold_in(k, e))(batch.keys)) for e in range(2)]
  (loss, _), grads = stacked(params, epochs[0], LEARN)
  moved = jax.tree.map(lambda x, g: x - g, params, grads)
  (_, old), _ = stacked(params, epochs[1], LEARN)
  (other, _), grads = stacked(moved, epochs[1], LEARN, old)
  assert_same(last, grads, rtol=1e-4)
  assert_same(state.params, jax.tree.map(lambda x, g: x - g, moved, grads))
  assert state.step == 1
  np.testing.assert_allclose(
    metrics["loss"], (loss + other) / 2, rtol=1e-4, atol=1e-5)
  assert metrics["delta"] > 0.005


def test_the_order_of_rows_changes_nothing():
  batch = make_batch()
  want, metrics, _ = run(batch)
  for seed in range(2):
    order = np.random.default_rng(seed).permutation(B)
    got, others, _ = run(take(batch, order))
    assert_same(got, want)
    for name, value in metrics.items():
      np.testing.assert_allclose(others[name], value, rtol=1e-4, atol=1e-5)


def test_the_split_into_micro_batches_changes_nothing():
  batch = make_batch()
  want, metrics, _ = run(batch)
  got, others, _ = run(batch, dataclasses.replace(LEARN, micro_batch=8))
  assert_same(got, want)
  assert metrics.pop("computed") < others.pop("computed")
  for name, value in metrics.items():
    np.testing.assert_allclose(others[name], value, rtol=1e-4, atol=1e-5)


def test_what_follows_a_prompt_changes_nothing():
  batch = make_batch()
  want, _, _ = run(batch)
  live = np.arange(P) < np.asarray(batch.prompt_length)[:, None]
  garbage = jnp.where(live, batch.prompt, make_batch(seed=3).prompt)
  assert (garbage != batch.prompt).any()
  got, _, _ = run(dataclasses.replace(batch, prompt=garbage))
  assert_same(got, want)


def test_rows_without_an_advantage_may_hold_anything():
  batch, other = make_batch(), make_batch(seed=5)
  dead = batch.advantage == 0
  spoiled = dataclasses.replace(
    batch,
    completion=jnp.where(dead[:, None], other.completion, batch.completion),
    prompt=jnp.where(dead[:, None], other.prompt, batch.prompt))
  want, metrics, _ = run(batch)
  got, others, _ = run(spoiled)
  assert_same(got, want)
  for name, value in metrics.items():
    np.testing.assert_allclose(others[name], value, rtol=1e-4, atol=1e-5)


def test_a_batch_without_any_advantage_moves_nothing():
  batch = dataclasses.replace(make_batch(), advantage=jnp.zeros(B))
  grads, metrics, state = run(batch)
  for leaf in jax.tree.leaves(grads):
    np.testing.assert_array_equal(leaf, 0)
  assert all(value == 0 for value in metrics.values())
  jax.tree.map(np.testing.assert_array_equal, state.params, tiny()[1])


def test_micro_batches_without_any_advantage_are_not_computed():
  model, params = tiny()
  calls = []

  class Counted:
    cfg, mask_id = model.cfg, model.mask_id
    unembed = staticmethod(model.unembed)

    def hidden(self, *args):
      jax.debug.callback(lambda: calls.append(1))
      return model.hidden(*args)

  step = jax.jit(update.make(Counted(), LEARN, recorder()),
                 compiler_options=FAST)
  batch = make_batch()  # five rows of eight have one: three pairs of four
  for data, pairs in ((batch, 3), (
      dataclasses.replace(batch, advantage=jnp.zeros(B)), 0)):
    calls.clear()
    jax.block_until_ready(step(first_state(params, recorder()), data))
    jax.effects_barrier()
    assert len(calls) == pairs * N_MC


def test_without_a_norm_scores_and_gradient_are_t_times_larger():
  batch = make_batch()
  learn = dataclasses.replace(LEARN, forward_process="continuous")
  (_, score), per_token = stacked(tiny()[1], batch, learn)
  total, metrics, _ = run(
    batch, dataclasses.replace(learn, score_norm="none"))
  assert_same(total, jax.tree.map(lambda g: T * g, per_token))
  live = np.asarray(batch.advantage) != 0
  np.testing.assert_allclose(
    metrics["score_mean"], T * np.asarray(score)[:, live].mean(), rtol=1e-5)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
  batch = make_batch()
  bad = dataclasses.replace(
    batch, advantage=batch.advantage.at[0].set(jnp.inf))
  step, state = jitted(LEARN), first_state(tiny()[1], recorder())
  counts = []
  for data in (bad, bad, batch, bad):
    before = state
    state, metrics = step(state, data)
    counts.append((int(metrics["nonfinite_in_a_row"]),
                   int(metrics["nonfinite_total"])))
    if data is bad:
      jax.tree.map(np.testing.assert_array_equal, state.params, before.params)
      assert not np.isfinite(metrics["grad_norm"])
  assert counts == [(1, 1), (2, 2), (0, 2), (1, 3)]
  assert int(state.step) == 4
  assert_same(state.params, run(batch)[2].params)


@pytest.mark.parametrize("shrink", [1, 2])
def test_a_trace_scores_tokens_as_their_step_saw_them(shrink):
  model, params = tiny()
  batch = make_batch()
  trace = np.random.default_rng(2).integers(0, 4, (B, T))
  batch = dataclasses.replace(batch, trace=jnp.asarray(trace))
  learn = dataclasses.replace(
    LEARN, forward_process="trace", process_args={"shrink": shrink},
    n_mc=4 // shrink, score_norm="none")
  live = np.asarray(batch.maskable)
  seen = np.zeros((B, T), int)
  for j in range(4 // shrink):
    draw, (logps, _) = update.draw_logps(model, learn, params, batch, j)
    first = j * shrink  # the canvas before the slice's first step
    noisy = jnp.where(live & (trace >= first), MASK, batch.completion)
    hidden = model.hidden(params, *model_input.assemble(
      noisy, batch.prompt, batch.prompt_length))[:, :T]
    want = jax.nn.log_softmax(hidden @ model.unembed(params))
    want = np.take_along_axis(
      np.asarray(want), np.asarray(batch.completion)[..., None], -1)[..., 0]
    here = live & (trace // shrink == j)
    np.testing.assert_allclose(
      np.asarray(logps)[here], want[here], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(draw.weight) > 0, here)
    seen += here
  np.testing.assert_array_equal(seen, live)  # every token once


def test_rewards_become_the_advantages_that_the_config_names():
  # Two groups of four; a reward is not known, and one group has equal ones.
  reward = np.float32([0, 1, np.nan, 0.25, 2, 2, 2, 2])
  cfg = config.Config(
    rollout=config.RolloutConfig(group_size=4),
    learn=dataclasses.replace(
      LEARN, advantage="leave_one_out", negative_weight=0.25))
  # By hand: r - mean of the others, the negative ones damped.
  advantage = np.zeros(B, np.float32)
  advantage[[0, 1, 3]] = -0.625 / 4, 0.875, -0.25 / 4

  (model, params), batch = tiny(), make_batch()
  batch = dataclasses.replace(batch, trace=jnp.zeros((B, T), jnp.int32))
  tx = optimizer.make(config.OptimizerConfig(clip_norm=1e9), 10)
  learn = jax.jit(update.make_learn(model, cfg, tx, {1}), compiler_options=FAST)
  state, metrics = learn(
    first_state(params, tx), dataclasses.replace(batch, advantage=None),
    jnp.arange(2), jnp.asarray(reward))
  grads = jax.tree.map(
    lambda m: m / (1 - cfg.learn.optimizer.b1),
    optax.tree.get(state.opt_state, "mu"))
  (loss, _), want = stacked(
    params, dataclasses.replace(batch, advantage=jnp.asarray(advantage)), LEARN)
  assert_same(grads, want)
  np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_samples():
  b, t, p = 128, 16, 20
  model = transformer.build(config.ModelConfig(), MASK)
  tx = optimizer.make(config.OptimizerConfig(), 10)

  params = networks.shapes_of(model)
  state = jax.eval_shape(lambda p: first_state(p, tx), params)

  def shape(dtype, *sizes):
    return jax.ShapeDtypeStruct(sizes, dtype)

  batch = update.Batch(
    prompt=shape("int32", b, p), prompt_length=shape("int32", b),
    completion=shape("int32", b, t), maskable=shape("bool", b, t),
    advantage=shape("float32", b),
    keys=jax.eval_shape(lambda: jax.random.split(jax.random.key(0), b)))

  def temporaries(n_mc):
    learn = config.LearnConfig(n_mc=n_mc, micro_batch=32)
    lowered = jax.jit(update.make(model, learn, tx)).lower(state, batch)
    return lowered.compile(FAST).memory_analysis().temp_size_in_bytes

  few = temporaries(2)
  assert few > 0
  assert temporaries(64) <= 1.02 * few


@pytest.mark.parametrize(("loss", "traces"), [("bgpo", 1), ("espo", 2)])
def test_a_start_traces_the_forward_pass_of_a_draw_once(
    loss, traces, monkeypatch):
  learn = dataclasses.replace(LEARN, loss=loss)
  seen = []
  real = update.draw_logps
  monkeypatch.setattr(
    update, "draw_logps", lambda *args: seen.append(args) or real(*args))
  model, params = tiny()
  tx = recorder()
  jax.eval_shape(update.make(model, learn, tx), first_state(params, tx),
                 make_batch())
  # Joint objectives compute it once for the statistics and once for gradients.
  assert len(seen) == traces
