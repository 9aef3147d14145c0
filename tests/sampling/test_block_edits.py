"""Decoding with edits against a loop for one row, in NumPy without a cache."""

import dataclasses
import functools

import block_reference
import edit_reference
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl import keys as keys_lib
from dlrl import strict
from dlrl.sampling import block_decode
from dlrl.sampling import edits
from dlrl.sampling import generate

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, B, T = 2, 4, 10
CFG = dataclasses.replace(
  networks.TINY, heads=4, kv_heads=2, qk_norm=True, block_length=B)
LENGTHS = np.array([5, 1, 8, 3, 6])
PROMPTS = np.random.default_rng(0).integers(
  3, CFG.vocab_size, (len(LENGTHS), 9)).astype(np.int32)
# Of 12 tokens per 3 blocks, of which only 10 exist; one token a step.
PLAIN = {"gen_length": 12, "block_length": B, "steps": 12}
Q = PLAIN | {"threshold": 0.7, "edit_threshold": 0.5}
S = PLAIN | {"threshold": 0.5, "edit_threshold": 0.0}
WARM = S | {"temperature": 0.7, "top_k": 12, "top_p": 0.95}
CASES = {
  "quality": Q, "speed": S, "warm": WARM,
  "two_a_step": Q | {"steps": 6, "max_post_edit": 3},
  "only_with_masks": S | {"threshold": 0.0, "max_post_edit": 0}}


def keys():
  return jax.random.split(jax.random.key(3), len(LENGTHS))


@functools.cache
def program(sampler, ends=()):
  return jax.jit(functools.partial(
    block_decode.decode, edit_reference.editing(CFG, MASK)[0],
    sampler=sampler, eos_ids=ends))


def decode(ends=(), rows=slice(None), **sampler):
  """The state for `rows` of PROMPTS, T tokens each."""
  got = program(config.SamplerConfig(**sampler), ends)(
    edit_reference.editing(CFG, MASK)[1], jnp.asarray(PROMPTS[rows]),
    jnp.asarray(LENGTHS[rows]), keys()[rows],
    lengths=jnp.asarray(LENGTHS[rows] + T))
  return jax.tree.map(lambda x: x[:, :T] if x.ndim else x, got)


@functools.cache
def by_hand(ends, names):
  model, params = edit_reference.editing(CFG, MASK)
  return [edit_reference.decode(
    model, params, prompt[:n], key, config.SamplerConfig(**dict(names)), n + T,
    ends) for prompt, n, key in zip(PROMPTS, LENGTHS, keys(), strict=True)]


def compare(got, ends=(), slots=0, **sampler):
  """Returns times that tokens were edited, and passes of blocks, by rows."""
  rows = by_hand(ends, tuple(sampler.items()))
  for i, (tokens, written, confidence, _, _) in enumerate(rows):
    np.testing.assert_array_equal(got.completion[i], tokens)
    np.testing.assert_array_equal(got.trace[i], written)
    np.testing.assert_allclose(got.confidence[i], confidence, atol=1e-5)
  passes = [row[4][0] for row in rows]
  assert got.forwards == block_reference.passes(
    list(map(sum, passes)), slots or len(rows))
  return np.array([row[3] for row in rows]), passes


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_tokens_steps_confidences_and_passes_are_those_of_the_slow_loop(name):
  settings = CASES[name]
  got = decode(**settings)
  edited, _ = compare(got, **settings)
  assert edited.any()  # or it would not show
  # No more than FLOPs are counted of.
  trips = block_decode.most_trips(
    config.SamplerConfig(**settings), len(LENGTHS))
  assert got.forwards <= trips[0] * trips[1]


def test_the_cases_have_blocks_that_settle_and_blocks_that_are_cut_off():
  def passes(name):
    rows = by_hand((), tuple(CASES[name].items()))
    return np.concatenate([row[4][0] for row in rows])

  found = np.concatenate(list(map(passes, ("quality", "speed", "warm"))))
  # Settled after edits, and still edited after 16 passes without a mask.
  assert ((found > B + 2) & (found < 16)).any()
  assert (found > 16).any()
  assert found.max() <= B + 16
  assert passes("only_with_masks").max() <= B


def test_rows_do_not_depend_on_slots():
  ends = (17,)
  got = decode(ends, **WARM, slots=2)
  compare(got, ends, 2, **WARM)
  ended = (np.asarray(got.trace) < 0).any(1)
  assert 0 < ended.sum() < len(ended)


def test_an_end_that_is_edited_away_ends_nothing():
  # Of the ids that were once there, one that is not in the end.
  row = by_hand((), tuple(S.items()))[2]
  tokens, (_, history) = row[0], row[4]
  once = set(history.ravel()) - {MASK} - set(PROMPTS[2]) - set(tokens)
  assert once
  got = decode(tuple(map(int, once)), slice(2, 3), **S)
  np.testing.assert_array_equal(got.completion[0], tokens)
  assert (np.asarray(got.trace) >= 0).all()


def test_a_stream_shows_every_pass():
  model, params = edit_reference.editing(CFG, MASK)
  sampler = config.SamplerConfig(**S)
  n = LENGTHS[2]
  history = by_hand((), tuple(S.items()))[2][4][1]
  states = list(block_decode.stream(
    model, params, PROMPTS[2:3], LENGTHS[2:3], keys()[2:3], sampler=sampler,
    lengths=LENGTHS[2:3] + T))
  assert len(states) == len(history) - 1
  for state, want in zip(states, history[1:], strict=True):
    np.testing.assert_array_equal(state.completion[0, :T], want[n:])


def test_without_edits_there_are_no_more_passes():
  # Not even where every probability is 1.
  got = decode(**PLAIN, threshold=0.5, top_k=1)
  assert got.forwards == got.taken.max() == 4  # one per block of the longest
  trips = block_decode.most_trips(
    config.SamplerConfig(**PLAIN, threshold=0.5), len(LENGTHS))
  assert trips[1] == 12


def test_generate_edits_whole_blocks():
  model, params = edit_reference.editing(CFG, MASK)
  asked = [row[:n].tolist() for row, n in zip(PROMPTS, LENGTHS, strict=True)]
  options = {"threshold": 0.5, "edit_threshold": 0, "max_post_edit": 5}
  got = generate(model, params, asked, gen_length=T, **options)
  key = jax.random.split(keys_lib.of(
    jax.random.key(0), keys_lib.Seed.GENERATION), 1)[0]
  sampler = config.SamplerConfig(**(PLAIN | options))
  edited = 0
  for row, prompt in zip(got, asked, strict=True):
    want = edit_reference.decode(
      model, params, prompt, key, sampler, -(-(len(prompt) + T) // B) * B)
    np.testing.assert_array_equal(row, want[0][:T])
    edited += want[3].sum()
  assert edited


@pytest.mark.parametrize(("options", "match"), [
  ({"edit_threshold": 1.5}, "generate(edit_threshold=1.5): must be in 0..1"),
  ({"edit_threshold": -1}, "generate(edit_threshold=-1.0): must be in 0..1"),
  ({"edit_threshold": "Q"}, "generate(edit_threshold='Q')"),
  ({"max_post_edit": -1}, "generate(max_post_edit=-1): must be at least 0"),
  ({"max_post_edit": 1.5}, "generate(max_post_edit=1.5)")])
def test_settings_that_make_no_sense_are_refused(options, match):
  with pytest.raises(strict.ArgumentError) as error:
    generate(*edit_reference.editing(CFG, MASK), [[3]], gen_length=4, **options)
  assert match in str(error.value)


def test_models_with_full_attention_do_not_edit():
  model, params = networks.decodable(networks.TINY, MASK)
  with pytest.raises(strict.ArgumentError, match=(
      r"generate\(edit_threshold=0.5\): must be 1: only models with blocks")):
    generate(model, params, [[3]], gen_length=4, steps=4, block_length=4,
             edit_threshold=0.5)
  generate(model, params, [[3]], gen_length=4, steps=4, block_length=4,
           edit_threshold=1)


def test_the_threshold_must_be_exceeded():
  ids, token, half = (jnp.array([[x] * 4]) for x in (3, 4, 0.5))
  present = jnp.array([[True, True, False, True]])
  token = token.at[0, 1].set(3)
  for threshold, want in ((0.5, [0, 0, 0, 0]), (0.49, [1, 0, 0, 1])):
    got = edits.confident(ids, token, half, present, threshold)
    np.testing.assert_array_equal(got, [want])
