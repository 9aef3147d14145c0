"""CJ-GRPO's averages, over the tokens of a step and then over steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
import runs
from updates import FAST
from updates import LEARN
from updates import assert_same
from updates import make_batch

from configs import cj_grpo
from dlrl import scoring
from dlrl import strict
from dlrl import update
from dlrl import validate
from dlrl.models import transformer

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, B, T, CLIP = 2, 8, 5, 0.2
# The step that committed each token; those of several blocks may be equal.
STEPS = np.array([
  [0, 0, 1, 1, 1], [0, 1, 2, 3, 4], [3, 3, 0, 0, 0], [0, 1, 1, 1, 2],
  [2, 1, 0, 1, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0]])
WRITTEN = np.array([5, 4, 3, 5, 1, 2, 5, 4])
COUNTED = np.array([5, 3, 3, 4, 1, 1, 5, 2])


def learn_of(size):
  return dataclasses.replace(
    LEARN, loss="diffu_grpo", score_norm="step", micro_batch=4,
    loss_args=strict.Knobs(clip_low=CLIP, clip_high=CLIP),
    forward_process="block_trace" if size else "trace", n_mc=size or T)


@functools.cache
def tiny(size):
  model = transformer.build(
    dataclasses.replace(networks.TINY, block_length=size), MASK)
  return model, *(networks.random_params(model, seed=s) for s in (0, 1))


@functools.cache
def batch():
  column = np.arange(T)[None]
  return dataclasses.replace(
    make_batch(), maskable=jnp.asarray(column < WRITTEN[:, None]),
    counted=jnp.asarray(column < COUNTED[:, None]),
    trace=jnp.asarray(STEPS, jnp.int32))


def transitions(row, size):
  """Columns that count, by the step and the block that committed them."""
  found = {}
  start = np.asarray(batch().prompt_length)[row]
  for column in range(COUNTED[row]):
    block = (start + column) // size if size else 0
    found.setdefault((block, STEPS[row, column]), []).append(column)
  return list(found.values())


def by_hand(logps, old, size, xp):
  """The loss from log-probs [b, t], transition by transition."""
  samples = []
  for row in range(B):
    a = np.asarray(batch().advantage)[row]
    steps = []
    for columns in transitions(row, size):
      tokens = []
      for column in columns:
        ratio = xp.exp(logps[row, column] - old[row, column])
        tokens.append(-xp.minimum(
          ratio * a, xp.clip(ratio, 1 - CLIP, 1 + CLIP) * a))
      steps.append(sum(tokens) / len(tokens))
    samples.append(sum(steps) / len(steps))
  return sum(samples) / B


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 4])
def test_the_loss_is_a_mean_over_steps_of_means_over_their_tokens(size):
  learn, (model, params, other) = learn_of(size), tiny(size)
  lengths = {len(columns) for row in range(B)
             for columns in transitions(row, size)}
  counts = {len(transitions(row, size)) for row in range(B)}
  assert min(len(lengths), len(counts)) > 1

  def logps_of(params):
    return scoring.batch_logps(model, learn, params, batch())[0]

  old = jax.jit(logps_of, compiler_options=FAST)(other)
  run = functools.partial(update.batch_grads, model, learn)
  metrics, grads = jax.jit(run, compiler_options=FAST)(
    params, dataclasses.replace(batch(), old_logps=old))
  new = jax.jit(logps_of, compiler_options=FAST)(params)
  # A token has a log-prob in the draw of its own step only.
  want = by_hand(*(np.asarray(x, np.float64).sum(1) for x in (new, old)),
                 size, np)
  np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)

  def loss(params):
    return by_hand(logps_of(params).sum(1), old.sum(1), size, jnp)

  assert_same(grads, jax.jit(jax.grad(loss), compiler_options=FAST)(params),
              rtol=1e-4)
  by_tokens = jax.jit(functools.partial(
    update.batch_grads, model, dataclasses.replace(learn, score_norm="none")),
    compiler_options=FAST)(params, dataclasses.replace(
      batch(), old_logps=old))[0]
  assert abs(by_tokens["loss"] - want) > 0.01 * abs(want)


@pytest.mark.parametrize("size", [0, 4])
def test_a_text_without_tokens_has_no_loss(size):
  learn, (model, params, _) = learn_of(size), tiny(size)
  rows = dataclasses.replace(batch(), counted=jnp.zeros((B, T), bool))
  metrics, grads = jax.jit(functools.partial(
    update.batch_grads, model, learn), compiler_options=FAST)(params, rows)
  assert metrics["loss"] == 0
  assert not any(np.asarray(x).any() for x in jax.tree.leaves(grads))


@pytest.mark.parametrize("preset", [
  "sudoku_tiny", "llada_8b_math", "llada_8b_code", "dream_7b_sudoku"])
def test_steps_of_equal_size_need_no_shares(preset):
  cfg = cj_grpo.get_config(preset)
  assert (cfg.learn.score_norm, cfg.learn.tokens) == ("none", "canvas")
  sampler = cfg.rollout.sampler
  assert sampler.gen_length % sampler.steps == 0 == sampler.threshold


def test_its_config_trains_models_with_blocks_or_says_what_is_missing():
  assert validate.from_dict(
    cj_grpo.get_config("sdar_8b_math")).learn.score_norm == "step"
  cfg = cj_grpo.get_config()
  cfg.model.block_length = 4
  for part in (cfg.rollout, cfg.eval):
    part.sampler.block_length = 4
  with pytest.raises(strict.ConfigError) as error:
    validate.from_dict(cfg)
  assert str(error.value).splitlines() == [
    "config.learn.forward_process = 'trace': follows the steps of whole rows; "
    "for a model with blocks choose 'block_trace'"]
  cfg.learn.forward_process, cfg.learn.n_mc = "block_trace", 4
  assert validate.from_dict(cfg).learn.loss == "diffu_grpo"


@pytest.mark.parametrize(("changes", "message"), [
  ({"learn__loss": "trace_rl", "learn__forward_process": "trace",
    "learn__n_mc": 8}, "must be 'none': trace_rl normalizes its own way"),
  ({"learn__loss": "diffu_grpo", "learn__n_mc": 8}, "is for 'trace' and 'bl")])
def test_steps_without_an_effect_are_refused(changes, message):
  with pytest.raises(strict.ConfigError, match=(
      f"learn.score_norm = 'step': {message}")):
    runs.tiny("", learn__score_norm="step", **changes)
