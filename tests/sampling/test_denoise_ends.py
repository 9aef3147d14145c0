"""When decoding ends, with a model whose predictions come from a table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlrl import config
from dlrl.sampling import denoise

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK = 2
decode_jit = jax.jit(
  denoise.decode, static_argnums=0, static_argnames=("sampler", "eos_id"))


class Written:
  """Predicts by a table [n, t, v]; a row's prompt is its index in it."""

  mask_id = MASK

  def __init__(self, logits):
    self.table = jnp.asarray(logits, jnp.float32)

  def hidden(self, params, ids, positions, lengths, columns=None):
    t = self.table.shape[1]
    hidden = jnp.pad(
      self.table[ids[:, t]], [(0, 0), (0, ids.shape[1] - t), (0, 0)])
    if columns is None:
      return hidden
    return jnp.take_along_axis(hidden, columns[..., None], 1)

  def hidden_and_cache(self, *args):
    return self.hidden(*args), 0

  def hidden_of_part(self, params, ids, positions, lengths, cache, start,
                     width):
    return self.hidden(params, ids, positions, lengths,
                       start[:, None] + jnp.arange(width)[None])

  def unembed(self, params):
    return jnp.eye(self.table.shape[-1])

  def decode(self, rows, **options):
    t = self.table.shape[1]
    return decode_jit(
      self, {}, jnp.asarray(rows, jnp.int32)[:, None],
      jnp.ones(len(rows), jnp.int32),
      jax.random.split(jax.random.key(0), len(rows)), eos_id=1,
      sampler=config.SamplerConfig(
        gen_length=t, steps=t, block_length=t // 3, **options))


@pytest.mark.parametrize("cache", denoise.CACHES)
def test_decoding_ends_when_the_text_of_every_row_has_ended(cache):
  text = np.full((2, 12), 4)
  text[0, 1] = text[1, 5] = 1
  model = Written(10 * np.eye(6)[text])
  options = {"remasking": "left_to_right", "cache": cache}
  for rows, forwards in (([0], 2), ([1], 6), ([0, 1], 6)):
    out = model.decode(rows, eos="stop", **options)
    assert int(out.forwards) == forwards
    for row, got, trace in zip(rows, out.completion, out.trace, strict=True):
      end = 2 if row == 0 else 6
      assert got.tolist() == [4] * (end - 1) + [1] * (13 - end)
      assert trace.tolist() == [*range(end), *[end - 1] * (12 - end)]
  assert int(model.decode([0, 1], eos="free", **options).forwards) == 12


@pytest.mark.parametrize("cache", denoise.CACHES)
def test_a_block_ends_when_every_row_has_filled_it(cache):
  sure = np.where(np.arange(6) == 4, 10.0, 0.0)
  unsure = np.where(np.arange(6) == 4, 0.5, 0.0)
  model = Written(np.stack([
    np.tile(sure, (12, 1)),
    np.concatenate([np.tile(sure, (4, 1)), np.tile(unsure, (8, 1))])]))
  for rows, forwards in (([0], 3), ([1], 9), ([0, 1], 9)):
    out = model.decode(rows, threshold=0.9, cache=cache)
    assert int(out.forwards) == forwards
    assert [int(trace.max()) + 1 for trace in out.trace] == [
      3 if row == 0 else 9 for row in rows]
