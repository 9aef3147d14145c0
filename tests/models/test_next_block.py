"""A decoder's forward pass: a clean block and the noisy one after it."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl.models import transformer

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, B, T = 2, 4, 12
LENGTHS = np.array([11, 10, 8, 2])


@pytest.mark.parametrize("start", [[8, 4, 4, 0], [4, 8, 0, 0]])
def test_they_are_what_the_two_streams_give(start):
  model = transformer.build(dataclasses.replace(
    networks.TINY, heads=4, kv_heads=2, qk_norm=True, block_length=B), MASK)
  params = networks.random_params(model)
  rng = np.random.default_rng(0)
  clean = rng.integers(3, model.cfg.vocab_size, (len(LENGTHS), T))
  noisy = np.where(rng.random(clean.shape) < 0.6, MASK, clean)
  whole = model.clean_stream(params, clean, LENGTHS)
  positions = np.broadcast_to(np.arange(T), noisy.shape)
  want = model.noisy_stream(params, noisy, positions, LENGTHS, whole)
  # Rows are at different blocks, and each lacks the block before its own.
  start = np.array(start)
  known = np.arange(T) < start[:, None] - B
  lacking = jax.tree.map(
    lambda x: jnp.where(known[None, :, :, None, None], x, 1e3), whole)
  ids = np.stack([np.concatenate([
    np.full(B, 5) if s == 0 else clean[i, s - B:s], noisy[i, s:s + B]])
    for i, s in enumerate(start)])
  got, new = jax.jit(model.next_block)(params, ids, start, LENGTHS, lacking)
  for i, s in enumerate(start):
    live = slice(0, min(B, LENGTHS[i] - s))
    np.testing.assert_allclose(got[i, live], want[i, s:s + B][live], atol=1e-5)
    if s:
      for x, y in zip(new, whole, strict=True):
        np.testing.assert_allclose(x[:, i], y[:, i, s - B:s], atol=1e-5)
