"""Which tokens reach the loss and the model, from the batch of an update on."""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from updates import FAST
from updates import MASK
from updates import first_state
from updates import tiny

from dlrl import config
from dlrl import losses
from dlrl import optimizer
from dlrl import update
from dlrl import validate
from dlrl.presets import llada_8b
from dlrl.presets import names

# What each method's code does; the others count the canvas.
UNTIL_EOS = {"coupled_grpo", "diffu_grpo", "spg", "stp", "unigrpo", "wd1"}
METHODS = [name for name in names.shipped() if name != "sft"]
EOS, B, T, P = 1, 8, 16, 4
# An end at once, in the middle, twice, last, and none at all.
ENDS = [[0], [5], [5, 9], [15], [], [3], [7, 8, 12], [2]]
COUNTED = np.array([[i <= min(row or [T]) for i in range(T)] for row in ENDS])


@functools.cache
def learn_of(method):
  """The method's settings on a CPU, in one micro-batch and one pass."""
  cfg = validate.from_dict(
    importlib.import_module(f"configs.{method}").get_config("smoke"))
  return dataclasses.replace(
    cfg, learn=dataclasses.replace(cfg.learn, micro_batch=B, epochs=1))


def batch_of(tail=0, fixed=()):
  """Completions with ends; all after them depends on the seed `tail`."""
  rng = np.random.default_rng(0)
  completion = rng.integers(3, 20, (B, T))
  for line, row in zip(completion, ENDS, strict=True):
    line[row] = EOS
  if tail:
    rest = np.random.default_rng(tail).integers(3, 20, (B, T))
    completion = np.where(COUNTED, completion, rest)
  maskable = np.ones((B, T), bool)
  maskable[:, list(fixed)] = False
  return update.Batch(
    prompt=jnp.asarray(rng.integers(3, 20, (B, P)), jnp.int32),
    prompt_length=jnp.full(B, P, jnp.int32),
    completion=jnp.asarray(completion, jnp.int32),
    maskable=jnp.asarray(maskable),
    trace=jnp.asarray(rng.integers(0, 8, (B, T)), jnp.int32),
    keys=jax.random.split(jax.random.key(3), B))


class Watched:
  """The tiny model, and what it is shown, [b, t] of each forward pass."""

  cfg, mask_id, unembed = (
    tiny()[0].cfg, MASK, staticmethod(tiny()[0].unembed))

  def __init__(self, blind):
    self.blind, self.seen = blind, []

  def hidden(self, params, ids, *args):
    # Read later: an array that is read in a callback may wait for itself.
    jax.debug.callback(lambda x: self.seen.append(x), ids[:, :T])
    return tiny()[0].hidden(params, ids * (not self.blind), *args)


def objective_of(cfg):
  return losses.OBJECTIVES[cfg.learn.loss](**cfg.learn.loss_args)


def spied(objective, found):
  """The objective, which appends what each call is given to `found`."""
  name = "loss" if isinstance(objective, losses.Separable) else "statistic"

  def spy(draw, rows):
    # Read later, as above.
    jax.debug.callback(
      lambda *x: found.append(x), draw.mask, draw.weight, draw.logps,
      rows.valid, rows.tokens)
    return getattr(objective, name)(draw, rows)

  return objective._replace(**{name: spy})


@functools.cache
def program(cfg, blind=False):
  """`update.make_learn`, the whole second half of a step, as it is watched.

  One for all tests: programs with callbacks are compiled in every run.
  """
  tx = optimizer.make(config.OptimizerConfig(b1=0.0, clip_norm=1e9), 10)
  model, found, params = Watched(blind), [], tiny()[1]
  objective = objective_of(cfg)
  state = dataclasses.replace(
    first_state(params, tx), ref_params=params if objective.needs_ref else None)
  groups = jnp.arange(B // cfg.rollout.group_size)
  reward = jnp.arange(B, dtype=jnp.float32) ** 2 % 7
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(losses.OBJECTIVES, cfg.learn.loss,
                  lambda **_: spied(objective, found))
    learn = jax.jit(update.make_learn(model, cfg, tx, {EOS})).lower(
      state, batch_of(), groups, reward).compile(FAST)
  return (lambda batch: learn(state, batch, groups, reward)), model.seen, found


def learned(cfg, batch, blind=False):
  """(gradients, metrics, what the model was shown, what the loss got)."""
  learn, *lists = program(cfg, blind)
  for watched in lists:
    watched.clear()
  state, metrics = learn(batch)
  jax.effects_barrier()
  grads = jax.tree.leaves(optax.tree.get(state.opt_state, "mu"))
  seen, found = (jax.tree.map(np.asarray, watched) for watched in lists)
  return grads, jax.device_get(metrics), seen, found


@pytest.mark.parametrize("method", METHODS)
def test_a_method_counts_what_its_code_counts(method):
  presets = ["smoke", "" if method in ("bgpo", "stp") else "sudoku_tiny"]
  if method != "stp":
    presets += llada_8b.PRESETS
  module = importlib.import_module(f"configs.{method}")
  assert {validate.from_dict(module.get_config(p)).learn.tokens
          for p in presets} == {
    "until_eos" if method in UNTIL_EOS else "canvas"}


@pytest.mark.slow
@pytest.mark.parametrize(
  "method", [*sorted(UNTIL_EOS), "bgpo", "espo"])
def test_what_reaches_the_loss(method):
  cfg, batch = learn_of(method), batch_of(fixed=[1, 6])
  *_, found = learned(cfg, batch)
  want = np.asarray(batch.maskable) & (
    COUNTED if method in UNTIL_EOS else True)
  assert len(found) >= cfg.learn.n_mc
  seen = set()
  for mask, weight, logps, valid, tokens in found:
    # In another order: rows without an advantage go last.
    np.testing.assert_array_equal(np.sort(valid.sum(1)), np.sort(want.sum(1)))
    assert not mask[~valid].any()
    assert not weight[~valid].any()
    assert not logps[~valid].any()
    np.testing.assert_allclose(tokens, want.sum() / B, rtol=1e-6)
    seen |= {tuple(row) for row in valid.tolist()}
  assert seen == {tuple(row) for row in want.tolist()}
  assert any(weight.any() for _, weight, *_ in found)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bgpo", "coupled_grpo", "stp", "unigrpo"])
def test_what_follows_the_end_is_no_target(method):
  cfg = learn_of(method)
  # A model that is blind to tokens, so that they matter as targets alone.
  one, metrics, *_ = learned(cfg, batch_of(), blind=True)
  two, others, *_ = learned(cfg, batch_of(tail=1), blind=True)
  assert metrics["grad_norm"] > 1e-3
  same = [np.allclose(a, b, rtol=1e-4, atol=1e-6)
          for a, b in zip(one, two, strict=True)]
  assert all(same) == (method in UNTIL_EOS)
  if method in UNTIL_EOS:
    np.testing.assert_allclose(metrics["loss"], others["loss"], rtol=1e-4,
                               atol=1e-6)
  # The end is a target: without it the same text has another gradient.
  batch = batch_of()
  gone = dataclasses.replace(batch, completion=jnp.where(
    (batch.completion == EOS) & COUNTED, 5, batch.completion))
  three, *_ = learned(cfg, gone, blind=True)
  assert not all(np.allclose(a, b, rtol=1e-4, atol=1e-6)
                 for a, b in zip(one, three, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "hidden"), [
  ("diffu_grpo", True), ("wd1", True), ("spg", True), ("coupled_grpo", False),
  ("unigrpo", False), ("bgpo", False)])
def test_what_the_model_is_shown_of_the_rest(method, hidden):
  _, _, seen, _ = learned(learn_of(method), batch_of())
  rows = np.concatenate(seen)
  # A row is known by its text; in all draws that hide it, it may be any.
  rest = [shown for shown in rows if (shown[-2:] != MASK).any()]
  if hidden:
    # Only texts that reach the last two columns are ever shown there.
    ends = np.asarray(batch_of().completion)[COUNTED[:, -2]]
    assert all(any((shown[shown != MASK] == row[shown != MASK]).all()
                   for row in ends) for shown in rest)
  else:
    assert len(rest) > 0


@pytest.mark.parametrize("method", ["diffu_grpo", "wd1", "spg"])
def test_the_rest_changes_nothing_where_it_is_hidden(method):
  one, metrics, *_ = learned(learn_of(method), batch_of())
  two, others, *_ = learned(learn_of(method), batch_of(tail=2))
  assert metrics["grad_norm"] > 1e-3
  np.testing.assert_allclose(metrics["loss"], others["loss"], atol=1e-6)
  for a, b in zip(one, two, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_rows_of_which_nothing_counts_have_no_gradient():
  grads, metrics, *_ = learned(learn_of("diffu_grpo"), batch_of(fixed=range(T)))
  assert metrics["grad_norm"] == 0
  assert all(np.isfinite(x).all() for x in grads)
  assert all(np.isfinite(v) for v in metrics.values())
