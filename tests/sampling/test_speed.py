"""Tokens per forward pass, counted from traces and from whole rollouts."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from updates import MASK
from updates import tiny

from dlrl import config
from dlrl.models import transformer
from dlrl.sampling import denoise
from dlrl.sampling import speed

pytestmark = pytest.mark.usefixtures("unoptimized")

EOS, X = 1, 5


def by_hand(ids, trace):
  """One row after another, in plain Python."""
  found = []
  for row, steps in zip(ids, trace, strict=True):
    ends = [i for i, token in enumerate(row) if token in (EOS, 7)]
    end = ends[0] + 1 if ends else len(row)
    made = [step for step in steps[:end] if step >= 0]
    found.append(len(made) / (max(made) + 1) if made else 0.0)
  return found


@pytest.mark.parametrize(("ids", "trace", "want"), [
  ([X, X, X, X], [0, 0, 1, 1], 2.0),  # no end: the whole canvas
  ([X, X, X, EOS], [0, 1, 2, 3], 1.0),
  # What follows the end is no text, and its steps are not needed.
  ([X, EOS, X, EOS], [0, 0, 1, 2], 2.0),
  # The end was there first: the text took three steps all the same.
  ([X, X, EOS, EOS], [2, 1, 0, 0], 1.0),
  # The second step committed only what follows the end, but came between.
  ([X, EOS, X, X], [0, 2, 1, 1], 2 / 3),
  # Of a prior: no step made its tokens.
  ([X, X, X, X], [-1, -1, 0, 0], 2.0),
  ([X, X, EOS, EOS], [-1, 0, -1, -1], 1.0),
  ([X, EOS, X, X], [-1, -1, 0, 1], 0.0),
  # Another token that ends a text.
  ([X, 7, EOS, X], [0, 1, 2, 3], 1.0)])
def test_a_row_worked_by_hand(ids, trace, want):
  assert by_hand([ids], [trace]) == [want]
  got = speed.tokens_per_forward(jnp.array([ids]), jnp.array([trace]), {EOS, 7})
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, [want], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("knobs", [
  {}, dict(eos="stop", threshold=0.06), dict(fill_after=0.5)], ids=str)
def test_rollouts_take_as_many_forwards_alone_as_are_counted(knobs):
  """The oracle decodes each row on its own, step by step."""
  model, params = tiny()
  sampler = config.SamplerConfig(
    gen_length=8, block_length=4, steps=4, temperature=1.0, **knobs)
  rows, p = 16, 3
  prompt = jnp.arange(2, 2 + rows * p).reshape(rows, p) % 20
  keys = jax.random.split(jax.random.key(0), rows)
  decoded = denoise.decode(model, params, prompt, jnp.full(rows, p), keys,
                           sampler=sampler, eos_id=EOS)
  got = np.asarray(speed.tokens_per_forward(
    decoded.completion, decoded.trace, {EOS}))
  assert got.min() < got.max()
  ended = 0
  for i in range(rows):
    states = [np.asarray(state.completion[0]) for state in denoise.stream(
      model, params, prompt[i:i + 1], jnp.array([p]), keys[i:i + 1],
      sampler=sampler, eos_id=EOS)]
    row = states[-1].tolist()
    np.testing.assert_array_equal(row, decoded.completion[i])
    end = row.index(EOS) + 1 if EOS in row else 8
    ended += end < 8
    # One more than those after which the text still had a mask.
    forwards = 1 + sum((state[:end] == MASK).any() for state in states)
    assert got[i] == pytest.approx(end / forwards)
  assert ended


def test_tokens_of_a_prior_are_not_made_by_a_forward():
  model, params = tiny()
  sampler = config.SamplerConfig(
    gen_length=8, block_length=4, steps=4, temperature=1.0)
  canvas = jnp.full((2, 8), MASK).at[0, :6].set(X)
  decoded = denoise.decode(
    model, params, jnp.full((2, 3), 4), jnp.full(2, 3),
    jax.random.split(jax.random.key(1), 2), sampler=sampler, canvas=canvas,
    eos_id=99)
  got = speed.tokens_per_forward(decoded.completion, decoded.trace, {99})
  # Two tokens in a step, as without a prior, and not eight.
  np.testing.assert_array_equal(got, [2, 2])


@pytest.mark.slow
def test_rows_of_blocks_count_their_own_steps():
  model = transformer.build(
    dataclasses.replace(networks.TINY, block_length=4), MASK)
  params = networks.random_params(model)
  sampler = config.SamplerConfig(
    gen_length=8, block_length=4, steps=8, temperature=1.0, threshold=0.06,
    slots=2)
  rows = 6
  prompt = jnp.arange(2, 2 + rows * 3).reshape(rows, 3) % 20
  length = jnp.array([3, 1, 2, 3, 2, 1])
  keys = jax.random.split(jax.random.key(2), rows)
  ends = (EOS, 2, 3, 4, 5)

  @jax.jit
  def decode(prompt, length, keys):
    return denoise.decode(model, params, prompt, length, keys, sampler=sampler,
                          eos_id=EOS, ends=ends)

  decoded = decode(prompt, length, keys)
  got = speed.tokens_per_forward(decoded.completion, decoded.trace, set(ends))
  early = 0
  for i in range(rows):
    alone = decode(prompt[i:i + 1], length[i:i + 1], keys[i:i + 1])
    row = np.asarray(alone.completion[0])
    np.testing.assert_array_equal(row, decoded.completion[i])
    stops = np.flatnonzero(np.isin(row, ends))
    size = stops[0] + 1 if stops.size else 8
    last = np.asarray(alone.trace[0]).max()
    if np.asarray(alone.trace[0, :size]).max() == last:
      assert got[i] == pytest.approx(size / int(alone.forwards))
      early += size < 8
    else:  # steps that committed only what follows the end are not needed
      assert got[i] > size / int(alone.forwards)
  assert early
