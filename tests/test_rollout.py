"""The canvases that rollouts start from, and whole rollouts."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from updates import MASK
from updates import first_state
from updates import recorder
from updates import tiny

from dlrl import config
from dlrl import rollout
from dlrl import strict
from dlrl import tasks
from dlrl.diffusion import pruning
from dlrl.models import char_tokenizer
from dlrl.runtime import mesh as mesh_lib

pytestmark = pytest.mark.usefixtures("unoptimized")

TOKENIZER = char_tokenizer.CharTokenizer()
SUDOKU = tasks.TASKS["sudoku"]
PUZZLE = "1030040203102001"
ROW = {"puzzle": PUZZLE}
G, T, P = 3, 8, 4


def test_a_sudoku_template_is_its_clues():
  canvas = rollout.templates(SUDOKU, TOKENIZER, [ROW], 18, MASK)
  want = [MASK if c == "0" else TOKENIZER.encode(c)[0] for c in PUZZLE]
  np.testing.assert_array_equal(canvas, [[*want, 1, 1]])  # then eos


def test_a_task_without_a_template_knows_nothing():
  task = dataclasses.replace(SUDOKU, template=None)
  canvas = rollout.templates(task, TOKENIZER, [ROW] * 2, 16, MASK)
  np.testing.assert_array_equal(canvas, np.full((2, 16), MASK))


def test_texts_of_a_template_are_tokenized():
  task = dataclasses.replace(SUDOKU, template=lambda _: ["(1", 2, ")"])
  canvas = rollout.templates(task, TOKENIZER, [ROW], 6, MASK)
  left, one, right = (TOKENIZER.encode(c)[0] for c in "(1)")
  np.testing.assert_array_equal(canvas[0], [left, one, MASK, MASK, right, 1])


def test_a_template_longer_than_the_canvas_is_refused():
  with pytest.raises(strict.ConfigError, match=r"gen_length.* 15.*16 tokens"):
    rollout.templates(SUDOKU, TOKENIZER, [ROW], 15, MASK)


def canvases(step=0, keys=0, remembered=None, known=None, **knobs):
  model, params = tiny()
  state = dataclasses.replace(
    first_state(params, recorder()), step=jnp.int32(step), memory=remembered)
  cfg = config.RolloutConfig(prior=config.PriorConfig(**knobs))
  known = jnp.full((G, T), MASK) if known is None else known
  return np.asarray(jax.jit(rollout.canvases, static_argnums=(0, 1))(
    model, cfg, state, jax.random.split(jax.random.key(keys), G),
    PROMPTS, LENGTHS, INDEX, known))


INDEX, LENGTHS = jnp.array([7, 8, 9]), jnp.array([4, 2, 3])
PROMPTS = jnp.arange(3, 3 + G * P).reshape(G, P)
# Of prompts 7 and 9, in the slots that are theirs; nobody remembers 8.
MEMORY = pruning.Memory(
  jnp.array([0, 9, 2, 7]), 3 + (7 * jnp.arange(4 * T)).reshape(4, T) % 21)


def test_without_a_prior_all_is_masked():
  assert (canvases(known=jnp.full((G, T), 5)) == MASK).all()


@pytest.mark.parametrize("rule", sorted(pruning.REMASK))
def test_a_share_of_what_is_remembered_is_put_down(rule):
  canvas = canvases(remembered=MEMORY, memory=0.5, remask=rule)
  assert (canvas[1] == MASK).all()
  for row, slot in ((canvas[0], 3), (canvas[2], 1)):
    fixed = row != MASK
    assert fixed.sum() == T // 2
    assert (row == np.asarray(MEMORY.completion[slot]))[fixed].all()
  if rule == "random":  # each prompt its own, and another set at another step
    assert ((canvas[0] != MASK) != (canvas[2] != MASK)).any()
    other = canvases(remembered=MEMORY, memory=0.5, remask=rule, keys=1)
    assert ((canvas != MASK) != (other != MASK)).any()
  if rule == "tail":
    assert (canvas[0, : T // 2] != MASK).all()


def test_the_least_probable_tokens_are_masked_again():
  model, params = tiny()
  completion = np.asarray(MEMORY.completion)[3]
  ids = np.concatenate([completion, PROMPTS[0]])
  positions = np.concatenate([4 + np.arange(T), np.arange(P)])
  hidden = model.hidden(
    params, ids[None], positions[None], np.array([T + int(LENGTHS[0])]))
  logits = np.asarray(hidden[0, :T] @ model.unembed(params), np.float64)
  logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  best = np.argsort(-logps[np.arange(T), completion])[: T // 2]
  canvas = canvases(remembered=MEMORY, memory=0.5, remask="lowprob")
  np.testing.assert_array_equal(np.flatnonzero(canvas[0] != MASK),
                                np.sort(best))


@pytest.mark.parametrize(("step", "fixed"), [(0, 8), (5, 4), (10, 0)])
def test_the_share_is_annealed(step, fixed):
  canvas = canvases(
    step=step, remembered=MEMORY, memory=1.0, anneal_steps=10)
  assert ((canvas != MASK).sum(1) == [fixed, 0, fixed]).all()


def test_a_template_goes_over_what_is_remembered():
  known = jnp.full((G, T), MASK).at[:, 2].set(23)
  canvas = canvases(
    remembered=MEMORY, known=known, template=1.0, memory=1.0)
  want = np.array([MEMORY.completion[3], np.full(T, MASK),
                   MEMORY.completion[1]])
  want[:, 2] = 23
  np.testing.assert_array_equal(canvas, want)


GROUP = 4


def setup_of(process, threshold, **knobs):
  sampler = config.SamplerConfig(
    gen_length=T, block_length=T, steps=4, temperature=1.0, threshold=threshold)
  cfg = config.Config(
    mesh=config.MeshConfig(8, 1, 1),
    learn=config.LearnConfig(forward_process=process),
    rollout=config.RolloutConfig(
      prompts=2, group_size=GROUP, sampler=sampler,
      prior=config.PriorConfig(memory=0.5, remask="random"), **knobs))
  return types.SimpleNamespace(
    cfg=cfg, model=tiny()[0], mesh=mesh_lib.make(cfg.mesh),
    tokenizer=TOKENIZER)


def state_of(step):
  return dataclasses.replace(
    first_state(tiny()[1], recorder()), step=jnp.int32(step), memory=MEMORY)


def batch_of(setup, step):
  with jax.set_mesh(setup.mesh):
    return rollout.make(setup)(
      state_of(step), PROMPTS[::2], LENGTHS[::2], INDEX[::2],
      jnp.full((2, T), MASK))[0]


@functools.cache
def rolled(step=0, process="balanced", threshold=0.0):
  """The batch of two remembered prompts, with random remasking."""
  batch = batch_of(setup_of(process, threshold), step)
  keys = np.asarray(jax.random.key_data(batch.keys))
  return jax.tree.map(np.asarray, dataclasses.replace(batch, keys=keys))


def test_a_group_starts_from_one_canvas_and_its_rows_differ():
  batch = rolled()
  fixed = ~batch.maskable.reshape(2, GROUP, T)
  assert (fixed.sum(-1) == T // 2).all()
  np.testing.assert_array_equal(
    fixed, np.broadcast_to(fixed[:, :1], fixed.shape))
  assert (fixed[0, 0] != fixed[1, 0]).any()
  groups = batch.completion.reshape(2, GROUP, T)
  for slot, rows, kept in zip((3, 1), groups, fixed[:, 0], strict=True):
    want = np.asarray(MEMORY.completion)[slot, kept]
    np.testing.assert_array_equal(rows[:, kept], np.tile(want, (GROUP, 1)))
  free = [row[~kept].tolist() for row, kept in zip(
    batch.completion, fixed.reshape(-1, T), strict=True)]
  assert len({tuple(x) for x in free}) == 2 * GROUP
  assert len({tuple(x) for x in batch.keys.tolist()}) == 2 * GROUP
  # The update computes all prompts at one width.
  width = PROMPTS.shape[1]
  np.testing.assert_array_equal(
    batch.prompt[:, :width], np.repeat(PROMPTS[::2], GROUP, 0))
  assert not batch.prompt[:, width:].any()


def test_another_step_on_the_same_prompts_has_other_noise():
  first, second = rolled(0), rolled(1)
  np.testing.assert_array_equal(first.prompt, second.prompt)
  # Other canvases, other samples, other draws for the update.
  assert (first.maskable != second.maskable).any()
  assert (first.completion != second.completion).any(-1).all()
  assert (first.keys != second.keys).any(-1).all()


def test_the_trace_of_forks_counts_the_unsure_tokens_before_each():
  # Nothing is above the threshold, so every step is a fork of one token.
  steps = rolled(threshold=0.999)
  forks = rolled(process="forks", threshold=0.999)
  np.testing.assert_array_equal(forks.completion, steps.completion)
  free = steps.maskable
  assert (np.sort(steps.trace[free].reshape(-1, T // 2), -1)
          == np.arange(T // 2)).all()
  np.testing.assert_array_equal(forks.trace[free], 2 * steps.trace[free])
  np.testing.assert_array_equal(forks.trace[~free], -1)


@pytest.mark.slow
def test_rollouts_with_a_threshold_are_compared_with_exact_ones():
  compared = []
  for process in ("balanced", "forks"):
    setup = setup_of(process, 0.05, mismatch_every=3)
    compare, batch = rollout.comparison(setup), batch_of(setup, 0)
    with jax.set_mesh(setup.mesh):
      found = [compare(step, state_of(0), batch) for step in (1, 2, 3, 4)]
    assert [bool(x) for x in found] == [True, False, False, True]
    assert found[0].keys() == {"rollout/mismatch_kl", "rollout/parallel_kl"}
    compared.append(jax.device_get(found[0]))
  assert compared[0]["rollout/mismatch_kl"] == 0
  assert compared[0]["rollout/parallel_kl"] > 1e-3
  # A trace that counts forks does not hide the steps.
  assert compared[0] == compared[1]
  for never in (setup_of("balanced", 0.05, mismatch_every=0),
                setup_of("balanced", 0.0)):
    assert rollout.comparison(never)(1, None, None) == {}
