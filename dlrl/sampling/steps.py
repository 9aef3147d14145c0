"""The steps of decoding: predict a block's masked tokens and commit some.

A loop around them, jitted as one program or step by step, is in `denoise`.
"""

from typing import Any
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from dlrl import config
from dlrl.sampling import predict as predict_lib
from dlrl.sampling import remasking
from dlrl.sampling.forward import Forward


class DecodeState(NamedTuple):
  """What a step changes.

  Attributes:
    canvas: [b, t] int32.
    trace: [b, t] int32, see `denoise.Decoded`.
    forwards: scalar int32, forward passes so far.
    confidence: [b, t] fp32, see `denoise.Decoded`; 0 where masked.
    taken: [b] int32, the steps that rows have taken.
  """

  canvas: jax.Array
  trace: jax.Array
  forwards: jax.Array
  confidence: jax.Array
  taken: jax.Array


@flax.struct.dataclass
class Steps:
  """Steps with the same model, prompts and settings.

  Attributes:
    forward: the model at its prompts.
    keys: [b] keys.
    free: [b] int32, masks of each row at the start.
    sampler: the settings.
    eos_id: needed unless `sampler.eos` is "free".
  """

  forward: Forward
  keys: jax.Array
  free: jax.Array
  sampler: config.SamplerConfig = flax.struct.field(pytree_node=False)
  eos_id: int | None = flax.struct.field(pytree_node=False)

  @property
  def mask_id(self) -> int:
    """The model's."""
    return self.forward.model.mask_id

  def goes_on(self, state: DecodeState, start=None) -> jax.Array:
    """Whether there is something to do: in the block at `start`, or at all."""
    masks = self._open(state)
    if start is not None:
      masks = _columns(masks, start, self.sampler.block_length)
    return jnp.any(masks)

  def first(self, state: DecodeState) -> tuple[DecodeState, jax.Array, Any]:
    """A step of the first block with masks; its start, and a cache for `next`.

    Of whole rows. Without `sampler.cache` every step is a first one, and there
    is no cache.
    """
    width = self.sampler.block_length
    start = jnp.argmax(jnp.any(self._open(state), 0)) // width * width
    if self.sampler.cache == "none":
      hidden, cache = self.forward.block(state.canvas, start, width), None
    else:
      hidden, cache = self.forward.whole_and_cache(state.canvas)
      hidden = _columns(hidden, start, width)
    return self._commit(state, hidden, start), start, cache

  def next(
    self, state: DecodeState, start, cache, *, columns: int
  ) -> DecodeState:
    """Another step of the block, whose cache this is.

    Only `columns` columns from its start on are computed anew.
    """
    hidden = self.forward.part(state.canvas, start, columns, cache)
    return self._commit(
      state, hidden[:, :self.sampler.block_length], start)

  def fill(self, state: DecodeState) -> DecodeState:
    """The state with all masks filled from one more forward pass."""
    hidden = self.forward.block(state.canvas, 0, state.canvas.shape[1])
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

  def _open(self, state: DecodeState) -> jax.Array:
    """[b, t], masks of rows that go on step by step."""
    masks = state.canvas == self.mask_id
    left = jnp.sum(masks, -1)
    # 1e-3: rounding
    enough = jnp.ceil(self.sampler.fill_after * self.free - 1e-3)
    return masks & ((left > 0) & (self.free - left < enough))[:, None]

  def _commit(
    self, state: DecodeState, hidden: jax.Array, start
  ) -> DecodeState:
    """The state after a step of the block at `start`, of hidden states."""
    masked = _columns(self._open(state), start, self.sampler.block_length)
    found = predict_lib.predict(
      self.forward.logits(hidden), self.keys, state.taken, self.sampler,
      self.eos_id)
    state = _put(state, found, _chosen(found, masked, self.sampler), start)
    if self.sampler.eos == "stop":
      state = _stop(state, self.mask_id, self.eos_id)
    return state


def _chosen(found, masked, sampler: config.SamplerConfig) -> jax.Array:
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


def _put(state: DecodeState, found, chosen, start) -> DecodeState:
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


def _stop(state: DecodeState, mask_id: int, eos_id: Any) -> DecodeState:
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
