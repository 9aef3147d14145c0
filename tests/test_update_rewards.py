"""What an update makes of several rewards."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from updates import LEARN
from updates import B
from updates import T
from updates import first_state
from updates import make_batch
from updates import tiny

from dlrl import config
from dlrl import optimizer
from dlrl import update
from dlrl.diffusion import pruning


def test_each_reward_on_its_own_leaves_the_sum_to_the_memory(monkeypatch):
  cfg = config.Config(
    rollout=config.RolloutConfig(
      prompts=2, group_size=4, rewards=("solved", "tokens_per_forward"),
      reward_weights=(2.0, 0.5), normalize="each",
      prior=config.PriorConfig(memory=0.5, min_reward=3.9)),
    learn=dataclasses.replace(LEARN, negative_weight=0.5))
  parts = np.float32([[1, 4], [0, 8], [1, 3], [np.nan] * 2,
                      [0, 2], [0, 2], [0, 4], [0, 4]])
  total = np.float32([4, 4, 3.5, np.nan, 1, 1, 2, 2])
  assert [(x.shape, x.dtype) for x in update.reward_shapes(cfg.rollout)] == [
    (x.shape, x.dtype) for x in (total, parts)]
  monkeypatch.setattr(update, "make", lambda *args: (
    lambda state, batch: (state, {"advantage": batch.advantage})))
  tx, batch = optimizer.make(config.OptimizerConfig(), 10), make_batch()
  batch = dataclasses.replace(
    batch, advantage=None, trace=jnp.zeros((B, T), jnp.int32))
  state = dataclasses.replace(
    first_state({"a": jnp.zeros(2)}, tx), memory=pruning.empty(8, T))
  state, metrics = update.make_learn(tiny()[0], cfg, tx, {1})(
    state, batch, jnp.array([3, 5]), jnp.asarray(total), jnp.asarray(parts))
  # Two times that of `solved`, plus half that of the speed.
  want = np.zeros(B)
  for places in ([0, 1, 2], [4, 5, 6, 7]):
    for weight, r in zip((2.0, 0.5), parts[places].T, strict=True):
      if np.ptp(r):
        want[places] += weight * (r - r.mean()) / r.std(ddof=1)
  np.testing.assert_allclose(
    metrics["advantage"], np.where(want < 0, want / 2, want), rtol=1e-5,
    atol=1e-5)
  # Right answers gain, and among equals the faster ones.
  assert metrics["advantage"][0] > metrics["advantage"][2] > 0
  assert metrics["advantage"][6] > 0 > metrics["advantage"][4]
  owner = np.asarray(state.memory.owner)
  assert owner[3] == 3 and (np.delete(owner, 3) == -1).all()
  np.testing.assert_array_equal(
    state.memory.completion[3], batch.completion[0])


def test_a_text_ends_with_the_first_of_several_ends(monkeypatch):
  cfg = config.Config(
    rollout=config.RolloutConfig(prompts=4, group_size=2),
    learn=dataclasses.replace(LEARN, tokens="until_eos"))
  monkeypatch.setattr(update, "make", lambda *args: (
    lambda state, batch: (state, {"counted": batch.counted})))
  tx = optimizer.make(config.OptimizerConfig(), 10)
  completion = np.full((B, T), 9)
  completion[0, 2:] = 1
  completion[1, [1, 3]] = 7, 1
  completion[2, [1, 3]] = 1, 7
  completion[3, 0] = 7
  batch = dataclasses.replace(
    make_batch(), completion=jnp.asarray(completion), advantage=None,
    maskable=jnp.ones((B, T), bool), trace=jnp.zeros((B, T), jnp.int32))
  _, metrics = update.make_learn(tiny()[0], cfg, tx, {1, 7})(
    first_state({"a": jnp.zeros(2)}, tx), batch, jnp.arange(4), jnp.ones(B))
  # The token that ends a text counts, and is no part of its length.
  np.testing.assert_array_equal(
    np.asarray(metrics["counted"]).sum(-1), [3, 2, 2, 1, T, T, T, T])
  np.testing.assert_allclose(
    metrics["rollout/length"], np.mean([2, 1, 1, 0, T, T, T, T]))
