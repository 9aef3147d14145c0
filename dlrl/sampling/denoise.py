"""Semi-autoregressive decoding: blocks left to right, any order inside.

Every step predicts all masked tokens of a block, commits some of them for good
and leaves the rest masked. Each row is at a block of its own. One jitted
program serves rollout and evaluation; `stream` runs the same steps one by one
for interactive use.

Sources: LLaDA (arXiv 2502.09992) and its published `generate`; the caches and
parallel decoding are Fast-dLLM's (arXiv 2505.22618).
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dlrl import config
from dlrl.models import transformer
from dlrl.sampling import block_decode
from dlrl.sampling import turns
from dlrl.sampling.forward import Forward
from dlrl.sampling.steps import DecodeState
from dlrl.sampling.steps import Steps
from dlrl.sampling.weights import prepare

CACHES = ("none", "prefix", "dual")  # values of `sampler.cache`


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
  ends: tuple[int, ...] = (),
  group: int = 1,
  candidates: int = 0,
) -> DecodeState:
  """Fills the masks of a canvas; pure, and jitted by its callers.

  Args:
    model: see `Forward`; one with blocks is decoded by `block_decode.decode`.
    params: the model's parameters.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    keys: [b] PRNG keys, one per row, so that a completion depends neither on
      its neighbours nor on the number of hosts; unused at temperature 0.
    sampler: valid settings, see `check.sampler`. Once the share `fill_after` of
      a row's masks is filled, one more forward pass fills the rest, in all
      blocks (STP's temporal pruning). `slots` limits how many rows are
      decoded at a time, see `turns`.
    canvas: [b, gen_length] int32. Tokens other than the mask are kept and count
      as committed, so fewer masks take fewer steps. None: all masks.
    eos_id: the end-of-sequence token; needed unless `sampler.eos` is "free".
    ends: other tokens that end a text. Only models with blocks stop at these,
      and at `eos_id`, whatever `sampler.eos` is.
    group: so many rows in succession have the same prompt, which models with
      blocks compute once.
    candidates: so many ids that a token was drawn from are kept with it, see
      `DecodeState.among`.

  Returns:
    The state after the last step; its completions have no mask tokens.

  Raises:
    ValueError: a canvas is given, and the model has blocks.
  """
  if sampler.quantize != "none":
    params = prepare.in_eight_bits(params, sampler.quantize)
  if sampler.gather_once:
    params = prepare.gathered(params, model.cfg.compute_dtype)
  if _has_blocks(model):
    if canvas is not None:
      raise ValueError("decode: a model with blocks starts from masks; pass no "
                       "canvas")
    return block_decode.decode(
      model, params, prompt, prompt_length, keys, sampler=sampler,
      eos_ids=_ends(eos_id, ends), group=group, candidates=candidates)
  steps, state = _begin(
    Forward(model, params, prompt, prompt_length, sampler.cfg_scale), keys,
    sampler, canvas, eos_id, candidates)
  return _all_steps(steps, state)


def _all_steps(steps: Steps, state: DecodeState) -> DecodeState:
  """Takes steps until no mask is left."""
  sampler, rows = steps.sampler, steps.free.shape[0]
  size = turns.size(sampler.slots, rows)

  def block(
    steps: Steps, state: DecodeState, stop: int, columns: int
  ) -> DecodeState:
    state, start, cache = steps.first(state, stop)
    if cache is None:
      return state
    # A while_loop, not a scan: with a threshold the number of steps is only
    # known as they are taken.
    return jax.lax.while_loop(
      lambda state: steps.in_block(state, start),
      lambda state: steps.next(state, start, cache, columns=columns), state)

  for stop, columns in _stages(sampler):
    part = functools.partial(block, stop=stop, columns=columns)
    if size < rows:
      state = turns.take(steps, state, part, stop, size)
    else:
      state = turns.all_at_once(steps, state, part, stop)
  if sampler.fill_after < 1:
    state = turns.fill(steps, state, size)
  return state


def _stages(sampler: config.SamplerConfig) -> list[tuple[int, int]]:
  """Stages of decoding: pairs (stop, columns).

  All rows decode the columns before `stop` before the next stage begins; with a
  cache, each step computes `columns` columns.

  With the prefix cache, fewer columns are computed from block to block, and
  shapes are static: each block is a program of its own, for all rows.
  """
  width, total = sampler.block_length, sampler.gen_length
  if sampler.cache != "prefix":
    return [(total, width)]
  return [(start + width, total - start) for start in range(0, total, width)]


def most_trips(sampler: config.SamplerConfig, rows: int) -> tuple[int, ...]:
  """Bounds the iterations of `decode`'s loops, the outer before the inner.

  For counting FLOPs: the text of a program does not tell how often a
  `while_loop` runs. For full attention; see also `block_decode.most_trips`.
  Assumes that every row takes the most steps.
  """
  blocks = sampler.gen_length // sampler.block_length
  # With a threshold or factor each step commits at least one token.
  steps = (sampler.gen_length if sampler.threshold or sampler.factor
           else sampler.steps)
  after_first = steps // blocks - 1
  size = turns.size(sampler.slots, rows)
  in_turns = (-(-rows // size),) if size < rows else ()
  if sampler.cache == "prefix":
    return (*in_turns, 1, after_first)
  if sampler.cache == "dual":
    return (*in_turns, math.ceil(sampler.fill_after * blocks), after_first)
  return (*in_turns, math.ceil(sampler.fill_after * steps))


def stream(
  model: Any,
  params: Any,
  prompt: jax.Array,
  prompt_length: jax.Array,
  keys: jax.Array,
  *,
  sampler: config.SamplerConfig,
  eos_id: int | None = None,
  ends: tuple[int, ...] = (),
) -> Iterator[DecodeState]:
  """Yields the state after each step of `decode`; same arguments."""
  if _has_blocks(model):
    yield from block_decode.stream(
      model, params, prompt, prompt_length, keys, sampler=sampler,
      eos_ids=_ends(eos_id, ends))
    return
  steps, state = _begin(
    Forward(model, params, prompt, prompt_length, sampler.cfg_scale), keys,
    sampler, None, eos_id)
  for stop, columns in _stages(sampler):
    while _unfinished(steps, state, stop).any():
      state, start, cache = _first(steps, state, stop)
      yield state
      while cache is not None and _in_block(steps, state, start):
        state = _next(steps, state, start, cache, columns=columns)
        yield state
  if sampler.fill_after < 1:
    yield _fill(steps, state)


# Jitted at module level: programs are shared by all calls of `stream`.
_unfinished = jax.jit(Steps.unfinished, static_argnames="stop")
_in_block = jax.jit(Steps.in_block)
_first = jax.jit(Steps.first, static_argnames="stop")
_next = jax.jit(Steps.next, static_argnames="columns")
_fill = jax.jit(Steps.fill)


def _has_blocks(model: Any) -> bool:
  return isinstance(model, transformer.Model) and model.cfg.block_length > 0


def _ends(eos_id: int | None, others: tuple[int, ...]) -> tuple[int, ...]:
  """All ids that end a text, first the one that fills what follows."""
  first = () if eos_id is None else (eos_id,)
  return tuple(dict.fromkeys((*first, *sorted(others))))


def _begin(
  forward: Forward, keys: jax.Array, sampler: config.SamplerConfig,
  canvas: jax.Array | None, eos_id: int | None, candidates: int = 0,
) -> tuple[Steps, DecodeState]:
  """Returns the steps and the state before the first one."""
  mask_id = forward.model.mask_id
  if canvas is None:
    canvas = jnp.full(
      (forward.prompt.shape[0], sampler.gen_length), mask_id, jnp.int32)
  canvas = canvas.astype(jnp.int32)  # 64 bits where JAX has them by default
  free = jnp.sum(canvas == mask_id, -1)
  state = DecodeState(
    completion=canvas, trace=jnp.full_like(canvas, -1), forwards=jnp.int32(0),
    confidence=(canvas != mask_id).astype(jnp.float32),
    among=jnp.full((*canvas.shape, candidates), -1, jnp.int32))
  return Steps(forward, keys, free, sampler, eos_id, candidates), state
