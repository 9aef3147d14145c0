"""LLaDA2's decoding and editing against what its published loops gave.

Those of 2.0 and 2.1, with arg max in the place of draws and a correct mask.
"""

import functools

import jax
import numpy as np
import pytest

from dlrl import config
from dlrl import models
from dlrl.sampling import block_decode

pytestmark = [
  pytest.mark.shared_data, pytest.mark.usefixtures("unoptimized")]

CASES = [
  "v20_b8_s8_thr0.95_P8", "v20_b8_s8_thr0.5_P11", "v20_b8_s3_thr0.95_P5",
  "v20_b8_s4_thr0.5_P15", "v20_b16_s16_thr0.5_P16", "v20_b16_s5_thr0.95_P9",
  "v20_b8_s8_thr0.5_P10_eos", "v20_b4_s4_thr0.95_P6", "v21_q_b8_P8",
  "v21_q_b8_P11", "v21_s_b8_P8", "v21_s_b8_P13", "v21_q_b16_P5",
  "v21_s_b16_P20", "v21_default_b8_P10", "v21_q_b8_P9_eos",
  "v21_s_b8_P8_eos_noearly", "v21_s_b8_P14_max_post3", "v21_q_b8_P7_n2"]
WIDTH, GEN = 24, 48  # of all cases, so that they share programs


@functools.cache
def golden(shared):
  with np.load(shared / "golden" / "llada2_tiny" / "sampler.npz") as arrays:
    return dict(arrays)


def case(shared, name):
  return {key.removeprefix(f"{name}."): value
          for key, value in golden(shared).items()
          if key.startswith(f"{name}.")}


@functools.cache
def loaded(shared, size):
  return models.load(
    shared / "golden" / "llada2_tiny", dtype="float32", mask_id=318,
    block_length=size)


def arguments(shared, want):
  """(positional, named) ones of `decode` and `stream`."""
  _, size, steps, threshold, edit, most, transfer, early = (
    want["settings"].tolist())
  size = int(size)
  # 2.1 has no number of steps, but of tokens that a step fills in at least.
  each = int(steps) if steps > 0 else size // int(transfer)
  sampler = config.SamplerConfig(
    gen_length=GEN, block_length=size, steps=each * GEN // size,
    threshold=threshold, **(
      {} if steps > 0 else {"edit_threshold": edit, "max_post_edit": int(most)}
    ))
  prompt = np.zeros((1, WIDTH), np.int32)
  prompt[0, :len(want["prompt"])] = want["prompt"]
  return (*loaded(shared, size), prompt, np.array([len(want["prompt"])]),
          jax.random.split(jax.random.key(0), 1)), {
    "sampler": sampler, "lengths": np.array([len(want["canvas"])]),
    # 2.0 always ends at one, 2.1 only if it is asked to.
    "eos_ids": (int(want["eos_id"]),) * (steps > 0 or early > 0)}


@functools.cache
def compiled(**options):
  """One program for all cases with the same settings."""
  return jax.jit(functools.partial(
    block_decode.decode, **options), static_argnums=0)


def rows_of(want):
  """Tokens, and the step of the last write, counted over the row."""
  first, size = len(want["prompt"]), int(want["settings"][1])
  before = np.cumsum(want["forwards"]) - want["forwards"]
  step = want["last_write_step"]
  block = np.arange(len(step)) // size
  return want["canvas"][first:], np.where(
    step >= 0, step + before[block], -1)[first:]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*blocks of:UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_tokens_last_writes_and_forwards(shared, name):
  want = case(shared, name)
  args, options = arguments(shared, want)
  lengths = options.pop("lengths")
  got = compiled(**options)(*args, lengths=lengths)
  tokens, step = rows_of(want)
  completion, trace = (
    np.asarray(x)[0][:len(tokens)] for x in (got.completion, got.trace))
  np.testing.assert_array_equal(trace, step)
  decoded = step >= 0
  np.testing.assert_array_equal(completion[decoded], tokens[decoded])
  # After the block of an end there are masks in the published canvas, and ends
  # here: these cannot be compared.
  assert (completion[~decoded] == want["eos_id"]).all()
  assert got.forwards == want["forwards"].sum()
  # The published loop returns tokens up to the first end, even where it did not
  # stop there.
  text = completion[:int(want["settings"][0])]
  ends = np.flatnonzero(text == want["eos_id"])
  np.testing.assert_array_equal(
    text[:ends[0] + 1] if len(ends) else text, want["output"])
  if name.startswith("v21"):
    assert want["edits"].any() or "default" in name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v21_q_b8_P9_eos", "v21_s_b8_P14_max_post3"])
def test_a_stream_has_the_canvas_after_every_forward(shared, name):
  want = case(shared, name)
  args, options = arguments(shared, want)
  first = len(want["prompt"])
  states = list(block_decode.stream(*args, **options))
  assert len(states) == len(want["history"]) - 1
  for state, canvas in zip(states, want["history"][1:], strict=True):
    shown = np.asarray(state.completion)[0][:len(canvas) - first]
    there = np.asarray(state.trace)[0][:len(canvas) - first] >= 0
    np.testing.assert_array_equal(shown[there], canvas[first:][there])
    assert (canvas[first:][~there] == 318).all()


def test_these_are_all_cases(shared):
  assert golden(shared)["case_names"].tolist() == CASES
