"""Rollouts and scores choose the same experts for the same tokens.

Whatever else is in the batch, how rows are padded, and which part of a row is
computed.
"""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl.models import transformer
from dlrl.models.mlp import experts
from dlrl.models.mlp import router

B = 4
FULL = dataclasses.replace(
  networks.TINY, layers=3, experts=config.ExpertsConfig(
    8, 2, 12, dense_layers=1, router="sigmoid", groups=4, groups_per_token=2))
BLOCKS = dataclasses.replace(FULL, block_length=B, qk_norm=True)
MASK = 2


@pytest.fixture
def routes(monkeypatch):
  """Runs a function; returns its result, and experts [layers, b, w, k].

  Of the last time that it goes through the layers.
  """
  choose, seen = router.choose, []

  def recording(*args):
    found = choose(*args)
    jax.debug.callback(
      lambda experts: seen.append(np.sort(experts)), found.experts,
      ordered=True)
    return found

  monkeypatch.setattr(router, "choose", recording)

  def run(fn, *args):
    seen.clear()
    result = jax.block_until_ready(jax.jit(fn)(*args))
    jax.effects_barrier()
    return result, np.stack(seen[-2:])  # two layers have experts

  return run


def made(cfg):
  model = transformer.build(cfg, MASK)
  return model, networks.random_params(model)


def ids(b, t, seed=0):
  return jnp.array(np.random.default_rng(seed).integers(3, 24, (b, t)))


@pytest.mark.slow
def test_blocks_are_routed_alike_in_rollouts_and_scores(routes):
  model, params = made(BLOCKS)
  rows, lengths = ids(4, 16), jnp.array([16, 14, 7, 16])
  noisy = rows.at[:, 1::2].set(MASK)
  positions = jnp.broadcast_to(jnp.arange(16), (4, 16))
  clean, of_clean = routes(
    lambda p: model.clean_stream(p, rows, lengths), params)
  _, of_noisy = routes(lambda p: model.noisy_stream(
    p, noisy, positions, lengths, clean), params)
  assert len(np.unique(of_noisy)) > 4
  for row in range(2):
    for start in range(B, 16, B):
      # A rollout: one row, one block at a time, with what is cached before it;
      # the clean block before is computed beside it.
      pair = jnp.concatenate(
        [rows[row, start - B:start], noisy[row, start:start + B]])
      _, found = routes(lambda p, pair=pair, start=start, row=row: (
        model.next_block(
          p, pair[None], jnp.array([start]), lengths[row][None],
          jax.tree.map(lambda x: x[:, row, None], clean))), params)
      live = min(int(lengths[row]) - start, B)
      np.testing.assert_array_equal(
        found[:, 0, :B], of_clean[:, row, start - B:start])
      np.testing.assert_array_equal(
        found[:, 0, B:B + live], of_noisy[:, row, start:start + live])


@pytest.mark.slow
def test_prompts_that_are_shared_are_routed_as_those_of_each_row(routes):
  model, params = made(BLOCKS)
  prompt, completion = ids(1, 6, seed=1), ids(3, 8, seed=2)
  length = jnp.array([6])
  # The last of two passes is that of the rows behind the prompt's whole blocks.
  _, found = routes(lambda p: model.clean_rows(
    p, prompt, length, completion, jnp.full(3, 14)), params)
  rows = jnp.concatenate([jnp.repeat(prompt, 3, 0), completion], 1)
  _, want = routes(
    lambda p: model.clean_stream(p, rows, jnp.full(3, 14)), params)
  np.testing.assert_array_equal(found[:, :, :14 - B], want[:, :, B:])
  _, prompts = routes(
    lambda p: model.clean_stream(p, prompt[:, :B], jnp.array([B])), params)
  np.testing.assert_array_equal(
    np.repeat(prompts, 3, 1), want[:, :, :B])


@pytest.mark.slow
def test_full_rows_are_routed_alike_in_any_batch(routes):
  model, params = made(FULL)
  rows, lengths = ids(4, 12), jnp.array([12, 9, 5, 12])
  positions = jnp.broadcast_to(jnp.arange(12), (4, 12))
  _, want = routes(lambda p: model.hidden(p, rows, positions, lengths), params)
  for row, length in enumerate(lengths.tolist()):
    _, alone = routes(lambda p, row=row, n=length: model.hidden(
      p, rows[row:row + 1, :n], positions[:1, :n], jnp.array([n])), params)
    np.testing.assert_array_equal(alone[:, 0], want[:, row, :length])
  (_, cache), _ = routes(lambda p: model.hidden_and_cache(
    p, rows, positions, lengths), params)
  _, part = routes(lambda p: model.hidden_of_part(
    p, rows, positions, lengths, cache, 3, 2), params)
  np.testing.assert_array_equal(part[:, :3], want[:, :3, 3:5])


@pytest.fixture
def served(monkeypatch):
  """Runs a function; returns how many choices of tokens a layer computes."""
  apply, seen = experts._swiglu, []

  def recording(frozen, trained, rows, sizes):
    jax.debug.callback(
      lambda n: seen.append(int(n)), jnp.sum(sizes), ordered=True)
    return apply(frozen, trained, rows, sizes)

  monkeypatch.setattr(experts, "_swiglu", recording)

  def run(fn, *args):
    seen.clear()
    result = jax.block_until_ready(jax.jit(fn)(*args))
    jax.effects_barrier()
    assert len(set(seen)) == 1
    return result, seen[0]

  return run


@pytest.mark.slow
def test_padding_of_blocks_has_no_experts(served):
  model, params = made(BLOCKS)
  rows, lengths = ids(4, 16), jnp.array([16, 14, 7, 1])
  positions = jnp.broadcast_to(jnp.arange(16), (4, 16))
  clean, n = served(lambda p: model.clean_stream(p, rows, lengths), params)
  assert n == 2 * (16 + 14 + 7 + 1)
  _, n = served(lambda p: model.noisy_stream(
    p, rows, positions, lengths, clean), params)
  assert n == 2 * (16 + 14 + 7 + 1)
  start = jnp.array([4, 12, 4, 0])  # at 0 there is no clean block before
  _, n = served(lambda p: model.next_block(
    p, rows[:, :2 * B], start, lengths, clean), params)
  assert n == 2 * (8 + 6 + 7 + 1)


@pytest.mark.slow
def test_padding_of_full_rows_has_no_experts(served):
  model, params = made(FULL)
  rows, lengths = ids(3, 12), jnp.array([12, 9, 5])
  positions = jnp.broadcast_to(jnp.arange(12), (3, 12))
  _, n = served(lambda p: model.hidden(p, rows, positions, lengths), params)
  assert n == 2 * (12 + 9 + 5)
