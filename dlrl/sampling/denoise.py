"""Semi-autoregressive decoding: blocks left to right, any order inside.

Every step predicts all masked tokens of the block, commits some of them for
good and leaves the rest masked. One jitted program serves rollout and
evaluation; for those who watch, its steps can be had one by one. Sources: LLaDA
(arXiv 2502.09992) and its published `generate`; the caches and parallel
decoding are Fast-dLLM's (arXiv 2505.22618).
"""

import functools
import math
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrl import config
from dlrl.sampling.forward import Forward
from dlrl.sampling.steps import DecodeState
from dlrl.sampling.steps import Steps

CACHES = ("none", "prefix", "dual")


class Decoded(NamedTuple):
  """Completions and how they came about.

  Attributes:
    completion: [b, t] int32, without mask tokens.
    trace: [b, t] int32, the denoising step that committed each token, counted
      from 0 in every row; -1 where the canvas had a token already.
    forwards: scalar int32, forward passes of the batch, of whole rows or of the
      part that a cache leaves.
    confidence: [b, t] fp32, the probability of each token when it was
      committed; 1 where the canvas had it.
  """

  completion: jax.Array
  trace: jax.Array
  forwards: jax.Array
  confidence: jax.Array


def decode(
  model: Any,
  params: Any,
  prompt: jax.Array,
  prompt_length: jax.Array,
  keys: jax.Array,
  *,
  sampler: config.SamplerConfig,
  canvas: jax.Array | None = None,
  eos_id: int | None = None,
) -> Decoded:
  """Fills the masks of a canvas.

  Args:
    model: has `hidden`, `unembed` and `mask_id`; with a cache, see `Forward`.
    params: of the model.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    keys: [b] one key per row, so that a row's completion depends neither on its
      neighbours nor on the number of hosts; unused at temperature 0.
    sampler: as checked by `check.sampler`. Once `fill_after` of a row's masks
      are filled, one more forward pass fills the others, in all blocks (STP's
      temporal pruning).
    canvas: [b, gen_length] int32; what is not a mask stays as it is and counts
      as committed, so that fewer masks take fewer steps. None: all masks.
    eos_id: needed unless `sampler.eos` is "free".
  """
  steps, state = _begin(
    Forward(model, params, prompt, prompt_length, sampler.cfg_scale), keys,
    sampler, canvas, eos_id)

  def block(state: DecodeState, columns: int) -> DecodeState:
    state, start, cache = steps.first(state)
    return jax.lax.while_loop(
      lambda state: steps.goes_on(state, start),
      lambda state: steps.next(state, start, cache, columns=columns), state)

  if sampler.cache == "none":
    state = jax.lax.while_loop(
      steps.goes_on, lambda state: steps.first(state)[0], state)
  elif sampler.cache == "dual":
    state = jax.lax.while_loop(
      steps.goes_on,
      functools.partial(block, columns=sampler.block_length), state)
  else:
    # What is computed narrows from block to block: a program of its own each.
    for start in range(0, sampler.gen_length, sampler.block_length):
      state = jax.lax.cond(
        steps.goes_on(state, start),
        functools.partial(block, columns=sampler.gen_length - start),
        lambda state: state, state)
  if sampler.fill_after < 1:
    state = steps.fill(state)
  return Decoded(*state[:4])


def most_trips(sampler: config.SamplerConfig) -> tuple[int, ...]:
  """How often `decode`'s loops run at most: the outer one, one within it.

  For counts of what a program does, which its text does not tell.
  """
  blocks = sampler.gen_length // sampler.block_length
  # By a threshold or factor, each step commits a token at least.
  steps = (sampler.gen_length if sampler.threshold or sampler.factor
           else sampler.steps)
  after_first = steps // blocks - 1
  if sampler.cache == "prefix":
    return (after_first,)
  if sampler.cache == "dual":
    return math.ceil(sampler.fill_after * blocks), after_first
  return (math.ceil(sampler.fill_after * steps),)


def stream(
  model: Any,
  params: Any,
  prompt: jax.Array,
  prompt_length: jax.Array,
  keys: jax.Array,
  *,
  sampler: config.SamplerConfig,
  eos_id: int | None = None,
) -> Iterator[Decoded]:
  """What `decode` has after each of its steps, for those who watch.

  Arguments as of `decode`. Masked tokens are still in `completion`; their trace
  is -1 and their confidence 0.
  """
  steps, state = _begin(
    Forward(model, params, prompt, prompt_length, sampler.cfg_scale), keys,
    sampler, None, eos_id)
  while _goes_on(steps, state):
    state, start, cache = _first(steps, state)
    yield Decoded(*state[:4])
    columns = (sampler.gen_length - int(start) if sampler.cache == "prefix"
               else sampler.block_length)
    while cache is not None and _goes_on(steps, state, start):
      state = _next(steps, state, start, cache, columns=columns)
      yield Decoded(*state[:4])
  if sampler.fill_after < 1:
    yield Decoded(*_fill(steps, state)[:4])


_goes_on = jax.jit(Steps.goes_on)
_first = jax.jit(Steps.first)
_next = jax.jit(Steps.next, static_argnames="columns")
_fill = jax.jit(Steps.fill)


def _begin(forward: Forward, keys, sampler, canvas, eos_id):
  """The steps and the state before the first."""
  mask_id = forward.model.mask_id
  if canvas is None:
    canvas = jnp.full(
      (forward.prompt.shape[0], sampler.gen_length), mask_id, jnp.int32)
  free = jnp.sum(canvas == mask_id, -1)
  state = DecodeState(
    canvas, jnp.full_like(canvas, -1), jnp.int32(0),
    (canvas != mask_id).astype(jnp.float32), jnp.zeros_like(free))
  return Steps(forward, keys, free, sampler, eos_id), state
