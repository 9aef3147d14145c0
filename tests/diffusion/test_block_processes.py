"""Draws on blocks against the enumeration of all masks of a block."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl.diffusion import blocks
from dlrl.models import transformer

pytestmark = pytest.mark.usefixtures("unoptimized")

# Offsets of the response in its first block, and tokens that exist: a first
# block of one token, a last one of one token, a response inside of one block.
OFFSETS, LENGTHS, T = (0, 3, 2, 1), (9, 9, 7, 2), 9


def maskable():
  return jnp.arange(T)[None] < jnp.array(LENGTHS)[:, None]


def block_of(row, size):
  return (OFFSETS[row] % size + np.arange(T)) // size


def cells(row, size):
  """The response tokens of each block of a row."""
  at = block_of(row, size)[:LENGTHS[row]]
  return [np.flatnonzero(at == block) for block in np.unique(at)]


def draws(name, keys, n, size):
  """(mask, weight), [n, rows, T] of rows with these keys."""
  offset = jnp.array(OFFSETS) % size
  drawn = [blocks.PROCESSES[name](
    keys, maskable(), j, n, offset=offset, block_length=size)
    for j in range(n)]
  return [np.stack(x) for x in zip(*drawn, strict=True)]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_exact_draws_are_all_masks_with_the_weights_of_the_bound(size):
  n = blocks.patterns(size)
  mask, weight = draws("block_exact", jax.random.split(jax.random.key(0), 4), n,
                       size)
  assert not mask[:, ~np.asarray(maskable())].any()
  assert (weight[~mask] == 0).all()
  for row in range(len(OFFSETS)):
    for block in cells(row, size):
      m, seen = len(block), []
      for drawn, weights in zip(mask[:, row, block], weight[:, row, block],
                                strict=True):
        k = drawn.sum()
        if k:
          seen.append(tuple(drawn))
          np.testing.assert_allclose(
            weights[drawn] / n, 1 / (k * math.comb(m, k)), rtol=1e-6)
      assert sorted(seen) == sorted(
        set(itertools.product([False, True], repeat=m)) - {(False,) * m})


@pytest.mark.parametrize(("name", "n"), [
  ("block_stratified", 3), ("block_balanced", 5), ("block_balanced", 1),
  ("block_complementary", 4), ("block_global", 3), ("block_bernoulli", 1)])
def test_every_mask_of_a_block_has_its_weight_on_average(name, n):
  size, repeats = 4, 6000

  @jax.jit
  def drawn(keys):
    return [blocks.PROCESSES[name](
      keys, maskable(), j, n, offset=jnp.array(OFFSETS), block_length=size)
      for j in range(n)]

  keys = jax.random.split(jax.random.key(7), (repeats, len(OFFSETS)))
  found = jax.jit(jax.vmap(drawn))(keys)
  for draw in found:  # each draw is unbiased by itself
    mask, weight = (np.asarray(x, np.float64) for x in draw)
    for row in range(len(OFFSETS)):
      assert not mask[:, row, LENGTHS[row]:].any()
      for block in cells(row, size):
        code = (mask[:, row, block] @ (1 << np.arange(len(block)))).astype(int)
        # The largest weight is that of each masked token.
        value = weight[:, row, block].max(-1)
        for pattern in range(1, 1 << len(block)):
          k = pattern.bit_count()
          each = np.where(code == pattern, value, 0)
          error = each.std(ddof=1) / repeats**0.5
          want = 1 / (k * math.comb(len(block), k))
          # 1e-3: noise levels below it are not drawn.
          assert abs(each.mean() - want) < 4.5 * error + 1e-3 * want, (
            name, row, block, pattern)


@pytest.mark.slow
def test_a_row_draws_the_same_whatever_is_beside_it():
  keys = jax.random.split(jax.random.key(3), 4)
  for name in blocks.PROCESSES:
    n = 15 if name == "block_exact" else 4
    whole = draws(name, keys, n, 4)
    one = blocks.PROCESSES[name](
      keys[2:3], maskable()[2:3], 3, n, offset=jnp.array(OFFSETS[2:3]),
      block_length=4)
    for a, b in zip(whole, one, strict=True):
      np.testing.assert_array_equal(a[3, 2], b[0])


def test_blocks_of_a_row_draw_independently():
  keys = jax.random.split(jax.random.key(5), 400)
  mask, _ = blocks.PROCESSES["block_stratified"](
    keys, jnp.ones((400, 8), bool), 0, 2, offset=jnp.zeros(400, int),
    block_length=4)
  a, b = np.asarray(mask[:, :4].sum(-1)), np.asarray(mask[:, 4:].sum(-1))
  assert abs(np.corrcoef(a, b)[0, 1]) < 4.5 / 20
  assert (a != b).any()


def test_rounds_follow_each_blocks_own_steps():
  # Row 0: blocks [0, 1, 2, 3], [4, ...]; row 1 starts inside of a block.
  steps = jnp.array([[1, 0, 1, 2, 7, 5, 5, 9], [3, 8, 4, 4, 4, 9, 9, 9]])
  live = jnp.ones(steps.shape, bool).at[0, 7].set(False)
  offset = jnp.array([0, 3])
  rank = np.array([[1, 0, 1, 2, 1, 0, 0, -1], [0, 1, 0, 0, 0, 0, 0, 0]])
  for shrink in (1, 2):
    want = np.where(rank < 0, -1, rank // shrink)
    for j in range(4):
      mask, weight = blocks.rounds(
        steps, live, j, 4, offset=offset, block_length=4, shrink=shrink)
      np.testing.assert_array_equal(mask, (want >= j))
      np.testing.assert_array_equal(weight, 4.0 * (want == j))


def test_other_numbers_of_draws_are_refused():
  with pytest.raises(ValueError, match=r"n is 16, but .* 4 tokens have 15"):
    draws("block_exact", jax.random.split(jax.random.key(0), 4), 16, 4)


MASK = 2
CFG = dataclasses.replace(networks.TINY, kv_heads=2, heads=4, block_length=3)


def test_exact_elbo_is_the_sum_over_all_masks():
  model = transformer.build(CFG, MASK)
  params = networks.random_params(model)
  rng = np.random.default_rng(0)
  prompts, lengths = np.array([3, 4, 2, 5]), np.array([5, 4, 1, 5])
  prompt = rng.integers(3, CFG.vocab_size, (4, 5))
  completion = rng.integers(3, CFG.vocab_size, (4, 5))
  logits = jax.jit(model.noisy_logits)

  def brute(row):
    ids = np.concatenate(
      [prompt[row, :prompts[row]], completion[row, :lengths[row]]])
    at, total = np.arange(len(ids)), 0.0
    for block in np.unique(at[prompts[row]:] // 3):
      live = at[(at // 3 == block) & (at >= prompts[row])]
      for k in range(1, len(live) + 1):
        for hidden in itertools.combinations(live, k):
          noisy = ids.copy()
          noisy[list(hidden)] = MASK
          found = logits(params, *(np.pad(x, (0, 10 - len(x)))[None]
                                   for x in (noisy, ids)), np.array([len(ids)]))
          logp = np.asarray(jax.nn.log_softmax(found[0]), np.float64)
          total += sum(logp[i, ids[i]] for i in hidden) / (
            k * math.comb(len(live), k))
    return total

  got = jax.jit(lambda params, *rows: blocks.exact_elbo(model, params, *rows))(
    params, prompt, prompts, completion, lengths)
  np.testing.assert_allclose(got, [brute(row) for row in range(4)], rtol=1e-5)


def test_exact_elbo_needs_blocks():
  model = transformer.build(networks.TINY, MASK)
  with pytest.raises(ValueError, match="full attention"):
    blocks.exact_elbo(model, {}, np.ones((1, 1), int), np.ones(1, int),
                      np.ones((1, 1), int))
