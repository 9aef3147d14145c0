"""Decoding with a cache against NumPy networks with frozen columns."""

import dataclasses

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl.sampling import forward
from dlrl.sampling import generate

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK = 2
LLADA = networks.TINY
DREAM = dataclasses.replace(LLADA, heads=4, qkv_bias=True, shifted=True)
PROMPTS = [[3, 9, 4, 17, 5], [8, 8], [20], [7, 3, 11]]
SIZES = {"gen_length": 10, "block_length": 5, "steps": 6}


class Row:
  """A network in float64 on one row in ordinary order, computed in parts.

  The columns of a part are computed anew. They attend to the keys and values
  that each other column had when it was last computed.
  """

  def __init__(self, model, params):
    self.cfg = model.cfg
    self.p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    self.head = np.asarray(model.unembed(params), np.float64)
    self.kept = [{} for _ in range(model.cfg.layers)]  # column: (key, value)
    self.out = {}  # column: its output

  def logits(self, ids, part):
    """Logits of the columns of `part`, by column; -inf for the mask."""
    c, last = self.cfg, {}
    fresh = sorted({max(i - c.shifted, 0) for i in part} | set(part))
    x = {i: self.p["embed"]["embedding"][ids[i]] for i in fresh}
    for n, kept in enumerate(self.kept):
      p = jax.tree.map(lambda x, n=n: x[n], self.p["layers"])
      queries = {}
      for i in fresh:
        q, k, v = (
          (self.norm(x[i], p["attention_norm"]) @ p["attention"][n]["kernel"]
           + p["attention"][n].get("bias", 0)).reshape(-1, c.head_dim)
          for n in "qkv")
        queries[i], kept[i] = self.rope(q, i), (self.rope(k, i), v)
      columns = sorted(kept)
      k, v = (np.repeat([kept[i][n] for i in columns], c.heads // c.kv_heads, 1)
              for n in (0, 1))
      for i in fresh:
        score = np.einsum("hk,jhk->jh", queries[i], k) / c.head_dim ** 0.5
        weight = np.exp(score - score.max(0))
        y = np.einsum("jh,jhk->hk", weight / weight.sum(0), v).ravel()
        x[i] = x[i] + y @ p["attention"]["out"]["kernel"]
        z, mlp = self.norm(x[i], p["mlp_norm"]), p["mlp"]
        gate = z @ mlp["gate"]["kernel"]
        up = z @ mlp["up"]["kernel"]
        x[i] = x[i] + gate / (1 + np.exp(-gate)) * up @ mlp["down"]["kernel"]
    for i in part:
      last[i] = self.norm(
        x[max(i - c.shifted, 0)], self.p["norm"]) @ self.head
      last[i][MASK] = -np.inf
    return last

  def norm(self, x, p):
    return x / np.sqrt((x**2).mean() + self.cfg.norm_eps) * p["scale"]

  def rope(self, x, i):
    half = self.cfg.head_dim // 2
    turn = np.exp(1j * i * self.cfg.rope_theta ** (-np.arange(half) / half))
    y = (x[:, :half] + 1j * x[:, half:]) * turn
    return np.concatenate([y.real, y.imag], 1)


def by_hand(model, params, prompt, *, gen_length, block_length, steps, cache,
            threshold=None, mask=MASK):
  """Decodes a completion by the loop that a cache stands for."""
  p, end = len(prompt), len(prompt) + gen_length
  ids = [*prompt, *[mask] * gen_length]
  each, more = divmod(block_length, steps * block_length // gen_length)
  for start in range(p, end, block_length):
    row, step = Row(model, params), 0
    block = range(start, start + block_length)
    rest = {"dual": block, "prefix": range(start, end), None: range(end)}[cache]
    while masked := [i for i in block if ids[i] == mask]:
      logits = row.logits(ids, rest if step else range(end))
      sure = {}
      for i in masked:
        probs = np.exp(logits[i] - logits[i].max())
        sure[i] = 1 / probs.sum()
      order = sorted(masked, key=lambda i: -sure[i])
      count = each + (step < more) if threshold is None else max(
        1, sum(sure[i] >= threshold for i in masked))
      for i in order[:count]:
        ids[i] = int(logits[i].argmax())
      step += 1
  return ids[p:]


both = pytest.mark.parametrize("cfg", [LLADA, DREAM], ids=["llada", "dream"])


@pytest.mark.parametrize("cfg, cache, threshold", [
  (LLADA, "prefix", 0.35), (LLADA, "dual", None), (DREAM, None, None),
  (DREAM, "prefix", None), (DREAM, "dual", 0.35)])
def test_tokens_are_those_of_columns_that_are_frozen(cfg, cache, threshold):
  model, params = networks.decodable(cfg)
  sizes = SIZES | {"cache": cache, "threshold": threshold}
  got = generate(model, params, PROMPTS, **sizes).tolist()
  assert got == [by_hand(model, params, row, **sizes) for row in PROMPTS]
  other = sizes | {"cache": "dual" if cache == "prefix" else "prefix"}
  assert got != [by_hand(model, params, row, **other) for row in PROMPTS]


@both
@pytest.mark.parametrize("start, width", [(0, 2), (1, 3), ((2, 0), 2)])
def test_a_part_sees_the_rest_as_it_was(cfg, start, width):
  """Canvas first; two rows of unequal lengths, one without a prompt."""
  model, params = networks.decodable(cfg)
  ids = jnp.asarray([[3, 9, MASK, 6, 4, MASK], [MASK, 7, 5, 8, 0, 0]])
  positions = jnp.asarray([[2, 3, 4, 5, 0, 1], [0, 1, 2, 3, 0, 1]])
  lengths = jnp.asarray([6, 4])
  there = (np.broadcast_to(start, 2)[:, None] + np.arange(width)).tolist()
  rows = np.arange(2)[:, None]
  changed = ids.at[rows, np.array(there)].add(5)

  @jax.jit
  def logits(ids, changed):
    hidden, kept = model.hidden_and_cache(params, ids, positions, lengths)
    part = (model.hidden_of_part(params, x, positions, lengths, kept,
                                 jnp.asarray(start), width)
            for x in (ids, changed))
    return [x @ model.unembed(params) for x in (hidden, *part)]

  whole, same, new = map(np.asarray, logits(ids, changed))
  np.testing.assert_allclose(same, whole[rows, there], rtol=1e-4, atol=1e-4)
  for i, n in enumerate(map(int, lengths)):
    order = np.argsort(positions[i, :n])  # from left to right
    row = Row(model, params)
    want = row.logits(ids[i, order], range(n))
    for column, position in enumerate(map(int, positions[i, :n])):
      assert_close(whole[i, column], want[position])
    part = [int(positions[i, column]) for column in there[i]]
    want = row.logits(changed[i, order], part)
    for column, position in enumerate(part):
      assert_close(new[i, column], want[position])


@both
@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_each_row_has_a_block_of_its_own(cfg, cfg_scale):
  """Of a canvas that has not changed, a part is exact."""
  model, params = networks.decodable(cfg)
  rng = np.random.default_rng(0)
  canvas = jnp.asarray(rng.integers(2, 9, (3, 8)))
  look = forward.Forward(
    model, params, jnp.asarray(rng.integers(3, 24, (3, 5))),
    jnp.array([5, 1, 3]), cfg_scale)
  start = jnp.array([4, 0, 2])

  @jax.jit
  def logits(canvas):
    _, cache = look.block_and_cache(canvas, start, 2)
    return [look.logits(x) for x in (
      look.block(canvas, jnp.zeros(3, int), 8), look.block(canvas, start, 2),
      look.block_and_cache(canvas, start, 2)[0],
      look.part(canvas, start, 2, cache))]

  whole, *blocks = logits(canvas)
  for found in blocks:
    for i, at in enumerate(start.tolist()):
      np.testing.assert_allclose(
        found[i], whole[i, at:at + 2], rtol=1e-4, atol=1e-4)


def assert_close(logits, want):
  np.testing.assert_allclose(
    np.delete(logits, MASK), np.delete(want, MASK), rtol=1e-4, atol=1e-4)
