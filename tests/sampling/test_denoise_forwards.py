"""The forward passes of pruned rollouts of several blocks, as docs/stp.md says.
"""

import math

import jax
import numpy as np
import pytest
from updates import tiny

from dlrl import config
from dlrl.sampling import denoise

MASK, WIDTH, EACH = 2, 4, 2


def passes(free, fill_after):
  """By the page: `free` are the free tokens of each block."""
  missing, steps = math.ceil(fill_after * sum(free) - 1e-9), 0
  for of_block in free:
    steps += math.ceil(min(of_block, missing) / EACH)
    missing -= min(of_block, missing)
  return steps + (fill_after < 1)


@pytest.mark.parametrize("fill_after", [0.0, 0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("free", [
  (4, 4, 4), (1, 4, 3), (0, 3, 2), (3, 3, 3), (1, 1, 1)])
def test_forward_passes_of_several_blocks(free, fill_after):
  model, params = tiny()
  canvas = np.full((1, 3 * WIDTH), 4, np.int32)
  for i, n in enumerate(free):
    canvas[0, i * WIDTH : i * WIDTH + n] = MASK
  out = denoise.decode(
    model, params, np.full((1, 2), 5, np.int32), np.array([2], np.int32),
    jax.random.key(0)[None], canvas=jax.numpy.asarray(canvas), eos_id=1,
    sampler=config.SamplerConfig(
      gen_length=3 * WIDTH, block_length=WIDTH, steps=3 * WIDTH // EACH,
      fill_after=fill_after))
  assert int(out.forwards) == passes(free, fill_after)


@pytest.mark.parametrize("settings", [
  {}, {"fill_after": 0.5}, {"cache": "prefix"}, {"cache": "dual"},
  {"threshold": 0.9999}, {"threshold": 0.9999, "cache": "dual"}],
  ids=lambda s: "-".join(map(str, s.values())) or "plain")
def test_a_canvas_of_masks_takes_as_many_passes_as_the_loops_are_bound_to(
    settings):
  """With the threshold no guess of this model is sure: one token a step."""
  model, params = tiny()
  blocks = 3
  sampler = config.SamplerConfig(
    gen_length=blocks * WIDTH, block_length=WIDTH,
    steps=blocks * WIDTH // EACH, **settings)
  out = denoise.decode(
    model, params, np.full((1, 2), 5, np.int32), np.array([2], np.int32),
    jax.random.key(0)[None], eos_id=1, sampler=sampler)
  outer, *inner = denoise.most_trips(sampler, 1)
  if sampler.cache == "prefix":  # there is a loop for each block
    outer *= blocks
  assert int(out.forwards) == (
    outer * (1 + sum(inner)) + (sampler.fill_after < 1))
