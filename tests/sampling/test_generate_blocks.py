"""`generate` with a block-diffusion model."""

import dataclasses

import block_reference
import jax
import networks
import numpy as np
import pytest

from dlrl import config
from dlrl import keys as keys_lib
from dlrl import strict
from dlrl.sampling import generate

pytestmark = pytest.mark.usefixtures("unoptimized")

MASK, B, GEN = 2, 4, 10
CFG = dataclasses.replace(networks.TINY, block_length=B)
PROMPTS = [[3, 9, 4, 17, 5], [8, 8, 6, 7], [], [20, 3, 11]]


def run(**options):
  model, params = networks.decodable(CFG, MASK)
  return generate(model, params, PROMPTS, **({"gen_length": GEN} | options))


def by_hand(ends=(), seed=0, steps_per_block=B, **options):
  """Whole blocks from a slow loop, cut to GEN tokens."""
  model, params = networks.decodable(CFG, MASK)
  keys = jax.random.split(keys_lib.of(
    jax.random.key(seed), keys_lib.Seed.GENERATION), len(PROMPTS))
  sampler = config.SamplerConfig(
    gen_length=3 * B, block_length=B, steps=3 * steps_per_block, **options)
  return np.array([block_reference.decode(
    model, params, prompt, key, sampler, -(-(len(prompt) + GEN) // B) * B, ends,
    16)[0][:GEN] for prompt, key in zip(PROMPTS, keys, strict=True)])


@pytest.mark.parametrize("options, want", [
  ({}, {}), ({"block_length": B, "slots": 2}, {}),
  ({"threshold": 0.3, "temperature": 1.0, "top_k": 9, "top_p": 0.9, "seed": 5},
   {}),
  ({"remasking": "sequential", "steps_per_block": 3},
   {"remasking": "left_to_right"})], ids=str)
def test_whole_blocks_are_decoded_and_cut(options, want):
  got = run(**options)
  assert got.shape == (len(PROMPTS), GEN)
  assert got.dtype == np.int32
  same = {k: v for k, v in options.items() if k not in ("slots", "block_length")
          }
  np.testing.assert_array_equal(got, by_hand(**(
    {"temperature": 0.0} | same | want)))


@pytest.mark.parametrize("eos", ["free", "stop"])
def test_rows_end_at_any_of_several_ends(eos):
  free = run()
  ends = (int(free[0, 5]), int(free[3, 2]))
  got = run(eos_id=np.array(ends), eos=eos)
  np.testing.assert_array_equal(got, by_hand(ends, temperature=0.0))
  assert (got[:, -1] == ends[0]).sum() >= 2
  assert (got != free).any()
  np.testing.assert_array_equal(
    run(eos_id=ends[0]), by_hand(ends[:1], temperature=0.0))


def refused(match, **options):
  with pytest.raises(strict.ConfigError) as error:
    run(**options)
  assert match in str(error.value), error.value
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("options, match", [
  ({"block_length": 8}, "generate(block_length=8): must be 4, the block length "
   "of the model"),
  ({"steps": 10}, "generate(steps=10): is for models with full attention; pass "
   "steps_per_block, of each block of 4 tokens"),
  ({"steps_per_block": 5}, "generate(steps_per_block=5): must be in 1..4"),
  ({"steps_per_block": 0}, "generate(steps_per_block=0): must be in 1..4"),
  ({"steps_per_block": 2.0}, "generate(steps_per_block=2.0): must be an int"),
  ({"gen_length": 0}, "generate(gen_length=0)"),
  ({"cache": "dual"}, "generate(cache='dual'): must be 'none'"),
  ({"cfg_scale": 1.0}, "generate(cfg_scale=1.0): must be 0"),
  ({"factor": 0.5}, "generate(factor=0.5): must be 0"),
  ({"eos": "suppress", "eos_id": 1}, "generate(eos='suppress'): must be 'free'"
   " or 'stop'"),
  ({"threshold": 0.9, "remasking": "margin"}, "generate(remasking='margin'): "
   "with threshold choose from 'low_confidence', 'entropy'"),
  ({"eos_id": [1, 99]}, "generate(eos_id[1]=99): must be in 0..23"),
  ({"eos_id": [1, MASK]}, "generate(eos_id=[1, 2]): is the mask token"),
  ({"eos_id": []}, "generate(eos_id=[]): must contain at least one id"),
  ({"eos_id": {1, 3}}, "generate(eos_id={1, 3}): must be a token id or a list"),
  ({"slots": -1}, "generate(slots=-1)"), ({"top_k": -1}, "generate(top_k=-1)"),
  ({"top_k": 1.5}, "generate(top_k=1.5): must be an integer")], ids=str)
def test_what_blocks_do_not_support_is_refused(options, match):
  refused(match, **options)


@pytest.mark.parametrize("options, match", [
  ({"steps_per_block": 4}, "generate(steps_per_block=4): is for block "
   "diffusion; pass steps"),
  ({"eos_id": [1, 3]}, "generate(eos_id=[1, 3]): must be a single id")],
  ids=str)
def test_full_attention_takes_no_arguments_of_blocks(options, match):
  model, params = networks.decodable()
  with pytest.raises(strict.ArgumentError) as error:
    generate(model, params, PROMPTS, gen_length=8, block_length=4, **options)
  assert match in str(error.value)


def test_full_attention_takes_top_k_and_sequential():
  model, params = networks.decodable()
  small = {"gen_length": 8, "block_length": 4}
  greedy = generate(model, params, PROMPTS, **small)
  np.testing.assert_array_equal(greedy, generate(
    model, params, PROMPTS, temperature=1.0, top_k=1, **small))
  assert (greedy != generate(
    model, params, PROMPTS, temperature=1.0, top_k=2, **small)).any()
  np.testing.assert_array_equal(*(generate(
    model, params, PROMPTS, remasking=name, **small)
    for name in ("sequential", "left_to_right")))
