"""Groups that teach nothing are replaced by those of further prompts."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from dlrl import config
from dlrl import data
from dlrl import rollout
from dlrl import train
from dlrl import update
from dlrl.run import grading
from dlrl.run import rounds
from dlrl.run import setup as setup_lib
from dlrl.runtime import mesh as mesh_lib

G = 2  # completions of a group


def drawn(numbers):
  """A rollout in which row i of group n holds 10 n + i."""
  rows = 10 * np.repeat(numbers, G) + np.arange(len(numbers) * G) % G
  mesh = mesh_lib.make(config.MeshConfig(4, 2, 1), jax.devices())
  put = jax.device_put(rows, mesh_lib.batch_sharding(mesh))
  batch = update.Batch(
    prompt=put[:, None], prompt_length=put, completion=put[:, None],
    maskable=put[:, None] > 0, trace=put[:, None], tokens_per_forward=put,
    keys=jax.vmap(jax.random.key)(put))
  # JAX leaves axes of one device out of what it computes itself.
  batch = jax.device_put(batch, mesh_lib.batch_sharding(mesh))
  return mesh, rounds.Drawn(
    {"position": np.int32(numbers)}, [], batch, jnp.int32(1))


def learned(resample, *numbers, normalize="sum"):
  """What is learned of rounds of groups, of which positive ones teach."""
  mesh, first = drawn(numbers[0])
  cfg = config.RolloutConfig(
    prompts=len(numbers[0]), group_size=G, resample=resample,
    rewards=("a", "b"), normalize=normalize)
  setup = types.SimpleNamespace(
    cfg=types.SimpleNamespace(rollout=cfg), mesh=mesh,
    put_whole=np.asarray, put_batch=lambda tree: tree)
  asked = []

  def graded(setup, drawn, began):
    numbers = drawn.prompts["position"]
    total = np.float32(np.repeat(numbers, G))
    return rounds.Graded(None, None, grading.Rewards(
      total, np.stack([total, -total], 1), numbers > 0),
      {"reward/infrastructure_errors": 1.0})

  def again(number):
    asked.append(number)
    return drawn(numbers[number])[1]

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(rounds, "grade", graded)
    arguments, row = rounds.learned(
      setup, first, graded(setup, first, 0.0), again)
  assert asked == list(range(1, 1 + len(asked)))
  return arguments, row, first


def test_groups_are_replaced_from_the_first_on_until_all_teach():
  (batch, index, reward, parts), row, first = learned(
    9, [5, -1, -2, 6, -3, 7, -4, 8], [-5, 1, -6, -7, 2, -8, -9, -11],
    [3, 4, 12, 13, 14, 15, 16, 17], normalize="each")
  want = [5, 1, 2, 6, 3, 7, 4, 8]
  rows = 10 * np.repeat(want, G) + np.arange(16) % G
  np.testing.assert_array_equal(index, want)
  np.testing.assert_array_equal(reward, np.repeat(want, G))
  np.testing.assert_array_equal(parts, np.outer(np.repeat(want, G), [1, -1]))
  for leaf in (batch.prompt[:, 0], batch.prompt_length, batch.completion[:, 0],
               batch.trace[:, 0], batch.tokens_per_forward):
    np.testing.assert_array_equal(leaf, rows)
  np.testing.assert_array_equal(
    jax.random.key_data(batch.keys),
    jax.random.key_data(jax.vmap(jax.random.key)(jnp.asarray(rows))))
  # As the update takes a rollout, or it would be compiled again.
  for leaf, before in zip(*map(jax.tree.leaves, (batch, first.batch)),
                          strict=True):
    assert leaf.sharding == before.sharding
    assert leaf.dtype == before.dtype
  time = row.pop("time/resampling")
  assert time >= 0
  assert row == {
    "rollout/resampled": 2, "rollout/zero_groups": (4 + 6) / 24,
    "rollout/discarded_groups": 2 / 3, "update/zero_groups": 0,
    "reward/infrastructure_errors": 3}


def test_the_last_round_leaves_what_teaches_nothing():
  numbers = [1, -1, -2, -3], [2, -4, -5, -6], [3, 4, 5, 6]
  (_, index, reward), row, _ = learned(1, *numbers)
  np.testing.assert_array_equal(index, [1, 2, -2, -3])
  np.testing.assert_array_equal(reward, np.repeat([1, 2, -2, -3], G))
  assert row["update/zero_groups"] == 0.5
  assert row["rollout/resampled"] == 1


@pytest.mark.parametrize(("resample", "numbers"), [
  (0, [1, -1, 2, -2]), (3, [1, 2, 3, 4])])
def test_no_round_is_drawn_without_need(resample, numbers):
  (batch, index, _), row, first = learned(resample, numbers)
  assert batch is first.batch
  np.testing.assert_array_equal(index, numbers)
  assert ("rollout/resampled" in row) == bool(resample)
  assert row.get("rollout/resampled", 0) == 0


def test_each_round_has_a_key_of_its_own():
  setup = types.SimpleNamespace(
    root_key=jax.random.key(3), put_whole=jnp.asarray)
  found = {tuple(rounds.key(setup, n).tolist()) for n in range(1, 9)}
  assert len(found) == 8
  assert tuple(jax.random.key_data(setup.root_key).tolist()) not in found


def noted_programs(monkeypatch):
  """What is learned from; how often each call of a program compiled, and keys.
  """
  learned, compiled, calls = [], [], {"rollout": [], "learn": [], "keys": []}
  jax.monitoring.register_event_duration_secs_listener(
    lambda name, _, **kw: compiled.append(name)
    if name.endswith("backend_compile_duration") else None)
  real = train.make_programs

  def counted(name, function, *args):
    before = len(compiled)
    if name == "rollout":
      calls["keys"].append(np.asarray(args[0].key).tolist())
    try:
      return function(*args)
    finally:
      calls[name].append(len(compiled) - before)

  def make(*args, **kwargs):
    rollout, learn = real(*args, **kwargs)

    def noted(state, batch, index, *rewards):
      learned.append((np.asarray(index), np.asarray(batch.prompt)))
      return counted("learn", learn, state, batch, index, *rewards)

    return functools.partial(counted, "rollout", rollout), noted

  monkeypatch.setattr(train, "make_programs", make)
  return learned, calls


def by_hand(setup, source, rows):
  """Positions of the examples that are learned: even ones first, in order."""
  batches = rollout.prompt_batches(setup, source)

  def flat(position):
    return source[int(position)]["index"] % 2 == 1

  for row in rows:
    first, *more = [next(batches)["position"] for _ in range(
      1 + int(row["rollout/resampled"]))]
    fresh = [i for batch in more for i in batch if not flat(i)]
    for place, i in enumerate(first):
      if flat(i) and fresh:
        first[place] = fresh.pop(0)
    left = [flat(i) for i in first]
    assert row["update/zero_groups"] == np.mean(left)
    assert row["rollout/resampled"] == 2 or not any(left)
    yield first


@pytest.mark.slow
def test_a_run_learns_from_groups_that_teach_and_continues_exactly(
    sudoku_dir, tmp_path, monkeypatch):
  cfg = runs.tiny(
    sudoku_dir, steps=3, sft__steps=0, checkpoint_every=1, eval__every=9,
    rollout__rewards=("flat_rewards:flat_if_odd",), rollout__resample=2)
  learned, calls = noted_programs(monkeypatch)
  _, want = runs.run_here(cfg, tmp_path / "whole")
  assert calls["learn"] == [1, 0, 0]
  assert calls["rollout"] == [1] + [0] * (len(calls["rollout"]) - 1)
  assert sum(row["rollout/resampled"] for row in want[1:]) > 1
  assert len(calls["rollout"]) == 3 + sum(
    row["rollout/resampled"] for row in want[1:])

  setup = setup_lib.make(cfg)
  assert calls["keys"] == [key for row in want[1:] for key in (
    jax.random.key_data(setup.root_key).tolist(),
    *(rounds.key(setup, n + 1).tolist()
      for n in range(int(row["rollout/resampled"]))))]
  source = rollout.examples(setup)
  item = data.rl_item(source, setup.tokenizer, setup.prompt,
                      prompt_length=cfg.task.prompt_length)
  for places, (index, prompt) in zip(
      by_hand(setup, source, want[1:]), learned, strict=True):
    np.testing.assert_array_equal(index, places)
    np.testing.assert_array_equal(prompt, np.repeat(
      [item(int(i))["prompt_ids"] for i in places], 4, 0))

  runs.cut(cfg, tmp_path / "cut", monkeypatch, step=3)
  assert len(learned) == 6
  assert runs.run_here(cfg, tmp_path / "cut")[1] == want
