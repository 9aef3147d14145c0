"""Decodes completions from a block-diffusion model, with an exact cache."""

import functools
from collections.abc import Iterator
from typing import Any

import jax

from dlrl import config
from dlrl.sampling import block_steps
from dlrl.sampling import edits
from dlrl.sampling.block_steps import BlockSteps
from dlrl.sampling.steps import DecodeState


def decode(
  model: Any,
  params: Any,
  prompt: jax.Array,
  prompt_length: jax.Array,
  keys: jax.Array,
  *,
  sampler: config.SamplerConfig,
  lengths: jax.Array | None = None,
  eos_ids: tuple[int, ...] = (),
  group: int = 1,
  candidates: int = 0,
) -> DecodeState:
  """Completes prompts block by block; pure, and jitted by its callers.

  Blocks are counted from position 0 of a row. The first one that is denoised
  starts at prompt_length // B * B and has the rest of the prompt in it. A row
  ends after a block in which there is one of `eos_ids`, or its last one.

  Args:
    model: a `transformer.Model` with `cfg.block_length` = B > 0.
    params: the model's parameters.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    keys: [b] PRNG keys, one per row, so that a completion depends neither on
      its neighbours nor on slots nor on the number of hosts; unused at
      temperature 0.
    sampler: valid settings for blocks of B, see `check.sampler`. `slots` rows
      are decoded at a time, or the next multiple of the devices that rows are
      split over; the next row takes the place of one that has ended.
    lengths: [b] int32, tokens of each row, prompt and completion; positions
      from there on do not exist. At most the whole blocks that
      prompt_length + gen_length tokens take; None: those tokens, of which the
      last may fill only part of a block.
    eos_ids: ids that end a row; the first fills what is not decoded.
    group: b is a multiple of it, and so many rows in succession have the same
      prompt. Its keys and values are computed once per group, or as often as
      there are devices among which the group's rows are split.
    candidates: n of `DecodeState.among`.

  Returns:
    The state after the last step. Tokens after an EOS in its block are those
    that were sampled, and have a trace and a confidence. Those of a token that
    was edited are of its last edit, and what earlier steps saw is lost. Columns
    that were never decoded hold the first of `eos_ids`, or the mask token if
    there is none, with trace -1 and confidence 0. `forwards` counts the steps
    of the batch, each of which computes `slots` rows.
  """
  steps, state = block_steps.begin(
    model, params, prompt, prompt_length, keys, sampler, lengths, eos_ids,
    group, candidates)

  return steps.result(_all_steps(steps, state))


def _all_steps(
  steps: BlockSteps, state: block_steps.Slots
) -> block_steps.Slots:
  """Takes steps until all rows have ended."""
  # Three loops, so that each pass has only what it needs: new rows get their
  # prompt, finished blocks are stored, and without either a step is of B
  # columns a row instead of 2 B. The order of a row's steps is the same.
  def without_storing(state: block_steps.Slots) -> block_steps.Slots:
    return jax.lax.while_loop(
      steps.stored, functools.partial(steps.step, store=False),
      steps.step(state, store=True))

  def in_these_slots(state: block_steps.Slots) -> block_steps.Slots:
    return jax.lax.while_loop(
      steps.filled, without_storing, steps.refill(state))

  return jax.lax.while_loop(steps.goes_on, in_these_slots, state)


def most_trips(
  sampler: config.SamplerConfig, rows: int
) -> tuple[int, int, int]:
  """Bounds the iterations of the loops of `decode`, see `denoise.most_trips`.

  As if all rows took most steps, and some row began a block at every step.
  """
  blocks = sampler.gen_length // sampler.block_length
  # A completion that begins and ends inside of a block is in one block more.
  steps = (sampler.gen_length if sampler.threshold else min(
    sampler.gen_length, sampler.steps + sampler.steps // blocks))
  steps += edits.most_passes(sampler) * (blocks + 1)
  return -(-rows // (sampler.slots or rows)), steps, 0


def stream(
  model: Any,
  params: Any,
  prompt: jax.Array,
  prompt_length: jax.Array,
  keys: jax.Array,
  *,
  sampler: config.SamplerConfig,
  lengths: jax.Array | None = None,
  eos_ids: tuple[int, ...] = (),
) -> Iterator[DecodeState]:
  """Yields the state after each step of `decode`; same arguments.

  What is not decoded yet is masked.
  """
  steps, state = _begin(
    model, params, prompt, prompt_length, keys, sampler, lengths, eos_ids, 1)
  while steps.goes_on(state):
    if not steps.filled(state):
      state = _refill(steps, state)
    state = _step(steps, state, store=bool(state.lacking.any()))
    yield _result(steps, state)


# Jitted at module level: programs are shared by all calls of `stream`.
_begin = jax.jit(block_steps.begin, static_argnums=(0, 5, 7, 8))
_refill = jax.jit(BlockSteps.refill)
_step = jax.jit(BlockSteps.step, static_argnames="store")
_result = jax.jit(BlockSteps.result)
