"""Semi-autoregressive decoding: blocks left to right, any order inside.

Every step predicts all masked tokens of the block, commits some of them for
good and leaves the rest masked. One jitted program serves rollout, evaluation
and chat. Sources: LLaDA (arXiv 2502.09992) and its published `generate`; the
caches and parallel decoding are Fast-dLLM's (arXiv 2505.22618).
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlrl import config
from dlrl.sampling import predict as predict_lib
from dlrl.sampling import remasking
from dlrl.sampling.forward import Forward

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


class _State(NamedTuple):
  """Of the loop: `Decoded` and, [b], the steps that rows have taken."""

  canvas: jax.Array
  trace: jax.Array
  forwards: jax.Array
  confidence: jax.Array
  taken: jax.Array


def decode(
  model: Any,
  params: Any,
  prompt: jax.Array,
  prompt_length: jax.Array,
  keys: jax.Array,
  *,
  sampler: config.Sampler,
  canvas: jax.Array | None = None,
  eos_id: int | None = None,
  limit: int | jax.Array | None = None,
) -> Decoded:
  """Fills the masks of a canvas.

  Args:
    model: has `hidden`, `unembed` and `mask_id`; with a cache, see `Forward`.
    params: of the model.
    prompt: [b, p] int32, padded on the right.
    prompt_length: [b] int32.
    keys: [b] one key per row, so that a row's completion depends neither on its
      neighbours nor on the number of hosts; unused at temperature 0.
    sampler: as checked by `config_check.sampler`. Once `fill_after` of a row's
      masks are filled, one more forward pass fills the others, in all blocks
      (STP's temporal pruning).
    canvas: [b, gen_length] int32; what is not a mask stays as it is and counts
      as committed, so that fewer masks take fewer steps. None: all masks.
    eos_id: needed unless `sampler.eos` is "free".
    limit: forward passes after which the rest stays masked, to go on from the
      canvas with other keys; None: until nothing is masked.
  """
  width = sampler.block_length
  if canvas is None:
    canvas = jnp.full(
      (prompt.shape[0], sampler.gen_length), model.mask_id, jnp.int32)
  free = jnp.sum(canvas == model.mask_id, -1)
  state = _State(
    canvas, jnp.full_like(canvas, -1), jnp.int32(0),
    (canvas != model.mask_id).astype(jnp.float32), jnp.zeros_like(free))
  loop = _Loop(
    Forward(model, params, prompt, prompt_length, sampler.cfg_scale), sampler,
    keys, eos_id, limit, free)
  if sampler.cache == "prefix":
    # What is computed narrows from block to block: a program of its own each.
    for start in range(0, sampler.gen_length, width):
      state = jax.lax.cond(
        loop.goes_on(state, start),
        functools.partial(
          loop.block, start=start, columns=sampler.gen_length - start),
        lambda state: state, state)
  else:
    state = jax.lax.while_loop(loop.goes_on, loop.step, state)
  if sampler.fill_after < 1 and limit is None:
    state = loop.fill(state)
  return Decoded(*state[:4])


@dataclasses.dataclass(frozen=True)
class _Loop:
  """What `decode` repeats; fields as its arguments.

  Attributes:
    free: [b] int32, masks of each row at the start.
  """

  forward: Forward
  sampler: config.Sampler
  keys: jax.Array
  eos_id: Any
  limit: int | jax.Array | None
  free: jax.Array

  @property
  def mask_id(self) -> int:
    return self.forward.model.mask_id

  def open_of(self, state: _State) -> jax.Array:
    """[b, t], masks of rows that go on step by step."""
    masks = state.canvas == self.mask_id
    left = jnp.sum(masks, -1)
    # 1e-3: rounding
    enough = jnp.ceil(self.sampler.fill_after * self.free - 1e-3)
    return masks & ((left > 0) & (self.free - left < enough))[:, None]

  def goes_on(self, state: _State, start=None) -> jax.Array:
    """Whether there is something to do: in the block at `start`, or at all."""
    masks = self.open_of(state)
    if start is not None:
      masks = _columns(masks, start, self.sampler.block_length)
    some = jnp.any(masks)
    return some if self.limit is None else some & (state.forwards < self.limit)

  def step(self, state: _State) -> _State:
    """One step of the first block with masks; with a cache, all its steps."""
    width = self.sampler.block_length
    start = jnp.argmax(jnp.any(self.open_of(state), 0)) // width * width
    if self.sampler.cache == "dual":
      return self.block(state, start, width)
    hidden = self.forward.whole(state.canvas)
    return self.commit(state, _columns(hidden, start, width), start)

  def block(self, state: _State, start, columns: int) -> _State:
    """All steps of a block; after the first, only `columns` are computed."""
    width = self.sampler.block_length
    hidden, cache = self.forward.whole_and_cache(state.canvas)
    state = self.commit(state, _columns(hidden, start, width), start)

    def step(state):
      hidden = self.forward.part(state.canvas, start, columns, cache)
      return self.commit(state, hidden[:, :width], start)

    return jax.lax.while_loop(
      lambda state: self.goes_on(state, start), step, state)

  def commit(self, state: _State, hidden: jax.Array, start) -> _State:
    """The state after a step of the block at `start`, of hidden states."""
    masked = _columns(self.open_of(state), start, self.sampler.block_length)
    found = predict_lib.predict(
      self.forward.logits(hidden), self.keys, state.taken, self.sampler,
      self.eos_id)
    state = _put(state, found, _chosen(found, masked, self.sampler), start)
    if self.sampler.eos == "stop":
      state = _stop(state, self.mask_id, self.eos_id)
    return state

  def fill(self, state: _State) -> _State:
    """The state with all masks filled from one more forward pass."""
    hidden = self.forward.whole(state.canvas)
    width = self.sampler.block_length

    def of_block(i):
      # Blocks have noise of their own: step numbers that no step has used.
      found = predict_lib.predict(
        self.forward.logits(_columns(hidden, i * width, width)), self.keys,
        state.taken + i, self.sampler, self.eos_id)
      return found.token, found.confidence

    token, confidence = jax.tree.map(
      lambda x: x.swapaxes(0, 1).reshape(state.canvas.shape),
      jax.lax.map(of_block, jnp.arange(self.sampler.gen_length // width)))
    masked = state.canvas == self.mask_id
    return state._replace(
      canvas=jnp.where(masked, token, state.canvas),
      trace=jnp.where(masked, state.taken[:, None], state.trace),
      confidence=jnp.where(masked, confidence, state.confidence),
      forwards=state.forwards + 1)


def _chosen(found, masked, sampler: config.Sampler) -> jax.Array:
  """[b, w] bool, the predictions to be committed now."""
  if sampler.threshold:
    return remasking.FALLBACKS[sampler.fallback](
      found.score, masked, sampler.threshold)
  if sampler.factor:
    return remasking.by_factor(found.score, masked, sampler.factor)
  width = sampler.block_length
  blocks = sampler.gen_length // width
  each, first = divmod(width, sampler.steps // blocks)
  # As many as if the block's other tokens had been committed by steps.
  committed = jnp.sum(~masked, -1)
  count = each + (committed < first * (each + 1))
  return remasking.highest(found.score, masked, count)


def _put(state: _State, found, chosen, start) -> _State:
  """The state with the chosen predictions of the block at `start`."""
  values = {"canvas": found.token, "trace": state.taken[:, None],
            "confidence": found.confidence}

  def put(name, value):
    array = getattr(state, name)
    new = jnp.where(chosen, value, _columns(array, start, chosen.shape[1]))
    return jax.lax.dynamic_update_slice_in_dim(array, new, start, 1)

  return state._replace(
    **{name: put(name, value) for name, value in values.items()},
    taken=state.taken + jnp.any(chosen, -1), forwards=state.forwards + 1)


def _stop(state: _State, mask_id: int, eos_id: Any) -> _State:
  """Rows whose text has ended get the end for all that is masked."""
  masks = state.canvas == mask_id
  ended = (state.canvas == eos_id) & (jnp.cumsum(masks, -1) == 0)
  rest = masks & jnp.any(ended, -1, keepdims=True)
  return state._replace(
    canvas=jnp.where(rest, eos_id, state.canvas),
    trace=jnp.where(rest, state.taken[:, None] - 1, state.trace),
    confidence=jnp.where(rest, 1.0, state.confidence))


def _columns(array: jax.Array, start, width: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(array, start, width, 1)
