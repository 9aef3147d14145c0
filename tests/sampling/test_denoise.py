"""The sampler against a loop in NumPy and against golden tokens."""

import dataclasses
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl.models import transformer
from dlrl.sampling import denoise
from dlrl.sampling import remasking

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK = 2
TINY = networks.TINY
LENGTHS = np.array([5, 2, 3])
SMALL = {"gen_length": 6, "block_length": 3, "steps": 4}


def prompts(seed=0, width=5):
  ids = np.random.default_rng(seed).integers(
    3, TINY.vocab_size, (len(LENGTHS), width))
  return ids.astype(np.int32)


def decode(model, params, prompt, lengths, keys=None, **sampler):
  if keys is None:
    keys = jax.random.split(jax.random.key(5), len(prompt))
  return np.asarray(decoded(
    model, params, prompt, lengths, keys, **sampler).completion)


def decoded(model, params, prompt, lengths, keys, canvas=None, **sampler):
  return decode_jit(
    model,
    params,
    jnp.asarray(prompt, jnp.int32),
    jnp.asarray(lengths, jnp.int32),
    keys,
    sampler=config.SamplerConfig(**sampler),
    canvas=canvas,
  )


decode_jit = jax.jit(
  denoise.decode, static_argnums=0, static_argnames=("sampler", "eos_id"))


def by_hand(model, params, prompt, *, gen_length, block_length, steps):
  """LLaDA's loop for one row in ordinary order, padded at the end."""
  unembed = np.asarray(model.unembed(params), np.float64)
  p, blocks = len(prompt), gen_length // block_length
  steps_per_block = steps // blocks
  ids = np.concatenate([prompt, np.full(gen_length, MASK)]).astype(np.int32)
  for block in range(blocks):
    start = p + block * block_length
    for s in range(steps_per_block):
      padded = np.pad(ids, (0, 13 - len(ids)), constant_values=7)
      hidden = hidden_jit(model, params, padded[None], np.arange(13)[None],
                          np.array([len(ids)]))
      logits = np.asarray(hidden[0], np.float64) @ unembed
      logits[:, MASK] = -np.inf
      probs = np.exp(logits - logits.max(-1, keepdims=True))
      probs /= probs.sum(-1, keepdims=True)
      masked = [i for i in range(start, start + block_length)
                if ids[i] == MASK]
      count = block_length // steps_per_block + (
        s < block_length % steps_per_block)
      for i in sorted(masked, key=lambda i: -probs[i].max())[:count]:
        ids[i] = probs[i].argmax()
  return ids[p:]


@functools.partial(jax.jit, static_argnums=0)
def hidden_jit(model, params, ids, positions, lengths):
  return model.hidden(params, ids, positions, lengths)


@pytest.mark.parametrize(
  ("gen_length", "block_length", "steps"),
  [(6, 6, 6), (8, 8, 3), (8, 4, 6), (8, 2, 4), (6, 3, 4), (6, 6, 1)])
def test_greedy_completions_are_those_of_the_loop_by_hand(
    gen_length, block_length, steps):
  sizes = {
    "gen_length": gen_length, "block_length": block_length, "steps": steps}
  model, params = networks.decodable()
  prompt = prompts()
  got = decode(model, params, prompt, LENGTHS, **sizes)
  for row, n in enumerate(LENGTHS):
    np.testing.assert_array_equal(
      got[row], by_hand(model, params, prompt[row, :n], **sizes))
  assert len(set(got.ravel())) > 2  # or the order would hardly matter


def test_the_number_of_steps_matters():
  model, params = networks.decodable()
  one, all_of_them = (
    decode(model, params, prompts(), LENGTHS, gen_length=6, block_length=6,
           steps=steps) for steps in (1, 6))
  assert (one != all_of_them).any()


@pytest.mark.shared_data
@pytest.mark.parametrize("case", [
  "g32_s32_b32_cfg0", "g32_s16_b8_cfg0", "g64_s32_b16_cfg0",
  "g64_s64_b32_cfg0", "g32_s12_b16_cfg0", "g32_s16_b8_cfg0_leftpad"])
def test_golden_tokens(shared, case):
  folder = shared / "golden" / "llada_tiny"
  model, params = networks.published(folder)
  golden = np.load(folder / "sampler.npz")
  prompt, live, want, settings = (golden[f"llada_{case}.{k}"] for k in (
    "prompt", "attention_mask", "output", "settings"))
  gen_length, steps, block_length, _ = map(int, settings)
  # The golden rows are padded on the left, ours on the right: the same, because
  # RoPE depends on relative positions only.
  order = np.argsort(1 - live, axis=1, kind="stable")
  got = decode(
    model, params, np.take_along_axis(prompt, order, 1), live.sum(1),
    gen_length=gen_length, block_length=block_length, steps=steps)
  np.testing.assert_array_equal(got, want[:, prompt.shape[1]:])


class Constant:
  """Predicts one distribution everywhere; its likeliest token is the mask."""

  mask_id = MASK
  logits = np.float32([0.3, 1.0, 9.0, -0.7, 2.0])

  def hidden(self, params, ids, positions, lengths, columns):
    return jnp.ones((*columns.shape, 1), jnp.float32)

  def unembed(self, params):
    return jnp.asarray(self.logits)[None]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_mask_tokens_are_never_emitted(temperature):
  got = decode(Constant(), {}, np.zeros((64, 1)), np.ones(64), gen_length=8,
               block_length=4, steps=4, temperature=temperature)
  assert (got != MASK).all()
  if not temperature:
    assert (got == 4).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_sampled_tokens_have_the_tempered_softmax_as_distribution(temperature):
  n = 2**14
  got = decode(
    Constant(), {}, np.zeros((n, 1)), np.ones(n), gen_length=2, block_length=1,
    steps=2, temperature=temperature)
  probs = np.exp(Constant.logits.astype(np.float64) / temperature)
  probs[MASK] = 0
  probs /= probs.sum()
  error = np.sqrt(probs * (1 - probs) / n)
  for column in got.T:
    found = np.bincount(column, minlength=5) / n
    assert (abs(found - probs) <= 5 * error).all()
  # Tokens of a row are independent, although they share the row's key.
  both = ((got[:, 0] == 4) & (got[:, 1] == 4)).mean()
  want = probs[4] ** 2
  assert abs(both - want) <= 5 * np.sqrt(want * (1 - want) / n)


def test_sampling_from_a_network_follows_its_logits():
  model, params = networks.decodable()
  n, prompt = 2**13, prompts()[:1, :2]
  got = decode(model, params, np.repeat(prompt, n, 0), np.full(n, 2),
               gen_length=1, block_length=1, steps=1, temperature=0.7)
  hidden = hidden_jit(
    model, params, jnp.asarray([[*prompt[0], MASK]]), jnp.arange(3)[None],
    jnp.array([3]))
  logits = np.asarray(hidden[0, -1] @ model.unembed(params), np.float64) / 0.7
  probs = np.exp(logits)
  probs[MASK] = 0
  probs /= probs.sum()
  found = np.bincount(got[:, 0], minlength=TINY.vocab_size) / n
  assert (abs(found - probs) <= 5 * np.sqrt(probs * (1 - probs) / n)).all()
  assert probs.max() > 2 / TINY.vocab_size


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_completion_does_not_depend_on_its_neighbours(temperature):
  model, params = networks.decodable()
  sampler = SMALL | {"temperature": temperature}
  keys = jax.random.split(jax.random.key(9), 3)
  prompt = prompts()
  whole = decode(model, params, prompt, LENGTHS, keys, **sampler)
  for chosen in ([2, 0, 1], [1, 1, 0]):
    some = decode(
      model, params, prompt[chosen], LENGTHS[chosen],
      keys[np.array(chosen)], **sampler)
    np.testing.assert_array_equal(some, whole[chosen])


def test_what_follows_a_prompt_changes_nothing():
  model, params = networks.decodable()
  prompt = prompts()
  garbage = prompts(seed=1, width=8)
  live = np.arange(8) < LENGTHS[:, None]
  wide = np.where(live, np.pad(prompt, [(0, 0), (0, 3)]), garbage)
  np.testing.assert_array_equal(
    decode(model, params, wide, LENGTHS, **SMALL),
    decode(model, params, prompt, LENGTHS, **SMALL))


def test_keys_make_the_difference_when_sampling_and_none_when_greedy():
  model, params = networks.decodable()
  args = model, params, prompts(), LENGTHS
  a, b = (jax.random.split(jax.random.key(seed), 3) for seed in (0, 1))
  for temperature, same in ((0.0, True), (1.0, False)):
    first, again, other = (
      decode(*args, keys, temperature=temperature, **SMALL)
      for keys in (a, a, b))
    np.testing.assert_array_equal(first, again)
    assert (first == other).all() == same


def test_the_most_confident_masked_positions_are_committed():
  confidence = jnp.array(
    [[0.9, 0.5, 0.7, 0.6], [0.2, 0.2, 0.2, 0.1], [0.9, 0.8, 0.7, 0.6]])
  masked = jnp.array(
    [[False, True, True, True], [True] * 4, [False, False, False, True]])
  np.testing.assert_array_equal(
    remasking.highest(
      confidence, masked, jnp.array([2, 2, 3])),
    [[False, False, True, True], [True, True, False, False],
     [False, False, False, True]])


def holes(canvas, share, seed=3):
  """Masks about `share` of the tokens of `canvas`."""
  gone = np.random.default_rng(seed).random(canvas.shape) < share
  return jnp.asarray(np.where(gone, MASK, canvas), jnp.int32)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_canvas_of_masks_is_the_default(temperature):
  model, params = networks.decodable()
  sampler = SMALL | {"temperature": temperature}
  keys = jax.random.split(jax.random.key(9), 3)
  args = model, params, prompts(), LENGTHS, keys
  blank = jnp.full((3, 6), MASK, jnp.int32)
  jax.tree.map(np.testing.assert_array_equal,
               decoded(*args, **sampler),
               decoded(*args, canvas=blank, **sampler))


def test_a_trace_tells_the_step_of_every_token():
  model, params = networks.decodable()
  args = model, params, prompts(), LENGTHS, jax.random.split(
    jax.random.key(9), 3)
  whole = decoded(*args, **SMALL)
  trace = np.asarray(whole.trace)
  assert int(whole.forwards) == SMALL["steps"]
  # Blocks of 3 tokens in 2 steps: two tokens, then one.
  for row in trace:
    assert sorted(row[:3]) == [0, 0, 1]
    assert sorted(row[3:]) == [2, 2, 3]
  # From the canvas before any step, decoding continues in the same way.
  for step in range(SMALL["steps"]):
    canvas = jnp.where(trace >= step, MASK, whole.completion)
    again = decoded(*args, canvas=canvas, **SMALL)
    np.testing.assert_array_equal(again.completion, whole.completion)
    assert int(again.forwards) == SMALL["steps"] - step
    np.testing.assert_array_equal(
      again.trace, np.where(trace >= step, trace - step, -1))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("fill_after", [1.0, 0.5, 0.0])
def test_given_tokens_stay_and_rows_stay_apart(fill_after, temperature):
  model, params = networks.decodable()
  sampler = SMALL | {"temperature": temperature, "fill_after": fill_after}
  keys = jax.random.split(jax.random.key(9), 3)
  prompt = prompts()
  canvas = holes(prompts(seed=7, width=6), 0.6)
  whole = decoded(model, params, prompt, LENGTHS, keys, canvas, **sampler)
  given = np.asarray(canvas) != MASK
  assert 0 < given.sum() < given.size
  got = np.asarray(whole.completion)
  assert (got[given] == np.asarray(canvas)[given]).all()
  assert (got != MASK).all()
  np.testing.assert_array_equal(np.asarray(whole.trace) == -1, given)
  for i in range(3):
    alone = decoded(model, params, prompt[i:i + 1], LENGTHS[i:i + 1],
                    keys[i:i + 1], canvas[i:i + 1], **sampler)
    np.testing.assert_array_equal(alone.completion[0], got[i])
    np.testing.assert_array_equal(alone.trace[0], whole.trace[i])


@pytest.mark.parametrize("fill_after", [0.0, 0.3, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("free", [1, 5, 8, 12])
def test_pruning_takes_the_steps_of_the_formula(fill_after, free):
  # STP takes rho T |U| / L steps and one forward pass to fill the rest.
  each, t = 2, 12
  canvas = jnp.asarray(np.where(np.arange(t) < free, MASK, 4)[None])
  out = decoded(
    Constant(), {}, np.zeros((1, 1)), np.ones(1),
    jax.random.split(jax.random.key(0), 1), canvas, gen_length=t,
    block_length=t, steps=t // each, fill_after=fill_after)
  steps = int(np.ceil(np.ceil(fill_after * free) / each))
  assert int(out.forwards) == steps + (fill_after < 1)
  late = np.asarray(out.trace)[0] == steps
  assert late.sum() == max(free - each * steps, 0)


def test_the_last_fill_is_one_prediction_given_what_is_committed():
  model, params = networks.decodable()
  keys = jax.random.split(jax.random.key(9), 3)
  args = model, params, prompts(), LENGTHS, keys
  sampler = SMALL | {"fill_after": 0.5}
  out = decoded(*args, **sampler)
  trace = np.asarray(out.trace)
  start = jnp.where(trace == trace.max(), MASK, out.completion)
  assert (np.asarray(start) == MASK).sum(1).tolist() == [3, 3, 3]
  once = decoded(*args, canvas=start, gen_length=6, block_length=6, steps=1)
  np.testing.assert_array_equal(once.completion, out.completion)


def test_blocks_that_are_filled_at_once_have_noise_of_their_own():
  n = 2**12
  out = decoded(
    Constant(), {}, np.zeros((n, 1)), np.ones(n),
    jax.random.split(jax.random.key(0), n), gen_length=2, block_length=1,
    steps=2, temperature=1.0, fill_after=0.0)
  got = np.asarray(out.completion)
  probs = np.exp(Constant.logits.astype(np.float64))
  probs[MASK] = 0
  want = (probs[4] / probs.sum()) ** 2
  both = ((got[:, 0] == 4) & (got[:, 1] == 4)).mean()
  assert abs(both - want) <= 5 * np.sqrt(want * (1 - want) / n)


@pytest.mark.slow
@pytest.mark.parametrize("options", [
  {"cache": "prefix"}, {"cache": "dual", "temperature": 1.0},
  {"fill_after": 0.5, "temperature": 1.0}], ids=str)
def test_a_stream_shows_every_step_of_the_program(options):
  model, params = networks.decodable()
  args = model, params, jnp.asarray(prompts()), jnp.asarray(LENGTHS)
  keys = jax.random.split(jax.random.key(5), 3)
  want = decoded(*args, keys, **SMALL, **options)
  seen = list(denoise.stream(
    *args, keys, sampler=config.SamplerConfig(**SMALL, **options)))
  jax.tree.map(np.testing.assert_array_equal, seen[-1], want)
  assert [int(out.forwards) for out in seen] == list(
    range(1, int(want.forwards) + 1))
  for before, after in itertools.pairwise(seen):
    old = np.asarray(before.trace) >= 0
    new = np.asarray(after.trace) >= 0
    assert (new & ~old).any(1).all()
    np.testing.assert_array_equal(np.asarray(before.completion) == MASK, ~old)
    assert (np.asarray(before.confidence)[~old] == 0).all()
    for x, y in zip(before, after, strict=True):
      if x.ndim:
        np.testing.assert_array_equal(np.asarray(x)[old], np.asarray(y)[old])


@pytest.mark.parametrize("options", [
  {}, {"fill_after": 0.5, "temperature": 1.0}, {"cache": "prefix"},
  {"cache": "dual", "threshold": 0.9, "cfg_scale": 1.0},
  {"remasking": "margin", "temperature": 0.5, "top_p": 0.9, "eos": "stop"}],
  ids=str)
def test_logits_exist_only_for_a_block_and_nothing_waits_for_the_host(options):
  v = 25  # no other axis has this size
  model = transformer.build(dataclasses.replace(TINY, vocab_size=v), MASK)
  b, block = 5, SMALL["block_length"]
  text = decode_jit.lower(
    model, networks.shapes_of(model), jnp.zeros((b, 7), jnp.int32),
    jnp.ones(b, jnp.int32), jax.random.split(jax.random.key(0), b),
    sampler=config.SamplerConfig(**SMALL, **options), eos_id=1).as_text()
  shapes = {tuple(map(int, dims.split("x")[:-1]))
            for dims in re.findall(r"tensor<((?:\d+x)+)\w+>", text)}
  rows = b * (2 if options.get("cfg_scale") else 1)
  assert (rows, block, v) in shapes
  wide = {shape for shape in shapes if shape[-1] == v and len(shape) > 2}
  assert max(map(np.prod, wide)) == rows * block * v
  assert "callback" not in text
