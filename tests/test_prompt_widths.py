"""Rollouts compute prompts no wider than a batch needs."""

import functools
import logging

import jax
import numpy as np
import pytest
import runs

from dlrl import data
from dlrl import rollout
from dlrl.run import setup as setup_lib
from dlrl.run import train_state

pytestmark = pytest.mark.usefixtures("unoptimized")

LENGTH = 150


def test_widths_are_few_and_the_last_is_the_longest():
  assert data.widths(512) == [128, 192, 256, 384, 512]
  assert data.widths(600) == [128, 192, 256, 384, 512, 600]
  assert data.widths(384) == [128, 192, 256, 384]
  assert data.widths(130) == [128, 130]
  assert data.widths(128) == [128]
  assert data.widths(32) == [32]


@pytest.mark.parametrize("lengths, width", [
  ([1, 128], 128), ([129, 3], 192), ([257], 300), ([300], 300)])
def test_a_batch_has_the_first_width_that_holds_all_its_prompts(
    lengths, width):
  assert data.width(np.array(lengths), 300) == width


@functools.cache
def made(data_dir):
  setup = setup_lib.make(runs.tiny(data_dir, **{
    "task.prompt_length": LENGTH, "rollout.sampler.threshold": 0.3,
    "rollout.sampler.remasking": "low_confidence"}))
  with jax.set_mesh(setup.mesh):
    _, make, abstract = train_state.for_rl(setup)
    return setup, make(setup.init_policy(setup.load_base())), abstract


def batch_of(setup, lengths):
  prompt = np.full((len(lengths), LENGTH), setup.tokenizer.pad_id, np.int32)
  rng = np.random.default_rng(0)
  for row, n in zip(prompt, lengths, strict=True):
    row[:n] = rng.integers(5, 15, n)
  return {"prompt_ids": prompt, "prompt_length": np.array(lengths, np.int32),
          "position": np.arange(len(lengths), dtype=np.int32)}


def test_a_rollout_of_narrow_prompts_is_that_of_wide_ones(
    sudoku_dir, caplog):
  setup, state, abstract = made(sudoku_dir)
  asked = [{"puzzle": "1030040203102001"}] * 4
  batch = batch_of(setup, [17, 128, 3, 40])
  with jax.set_mesh(setup.mesh):
    program = rollout.make(setup)
    rollout.compile_ahead(setup, program, abstract)
    narrow = rollout.inputs(setup, batch, asked)
    assert [x.shape for x in narrow] == [
      x.shape for x in rollout.input_shapes(setup, 128)]
    wide = setup.put_whole(batch["prompt_ids"]), *narrow[1:]
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
      got, forwards = program(state, *narrow)
      want, as_many = program(state, *wide)
  assert "Finished XLA compilation" not in caplog.text
  assert forwards == as_many
  assert got.prompt.shape == (16, LENGTH)
  jax.tree.map(np.testing.assert_array_equal, *(
    jax.tree.map(_numbers, x) for x in (got, want)))


def _numbers(x):
  return jax.random.key_data(x) if jax.dtypes.issubdtype(
    x.dtype, jax.dtypes.prng_key) else np.asarray(x)


def test_a_program_that_was_not_compiled_ahead_is_seen_to_compile(
    sudoku_dir, caplog):
  """Or the test above could not fail."""
  with jax.log_compiles(), caplog.at_level(logging.WARNING):
    jax.jit(lambda x: x + LENGTH)(np.ones(3))
  assert "Finished XLA compilation" in caplog.text
