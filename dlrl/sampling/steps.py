"""Denoising steps: predict the masked tokens of a block, commit some of them.

The loop over steps is in `denoise`, jitted as one program or step by step.
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
  """Completions and how they came about; a step returns the next one.

  Attributes:
    completion: [b, t] int32; mask tokens until they are committed, none in the
      end. What a model with blocks has not decoded, after the last block of a
      row that ended, is then the end-of-sequence token.
    trace: [b, t] int32, the step that committed each token, counted from 0 in
      every row; -1 where masked, given by the canvas, or never decoded.
    forwards: scalar int32, forward passes of the batch so far, whether of whole
      rows or of the part that a cache leaves.
    confidence: [b, t] fp32, the probability of each token when it was
      committed; 0 where masked or never decoded, 1 where given by the canvas.
    among: [b, t, n] int32, the ids that each token was drawn from, -1 for less
      than n and where none was drawn; n is 0 unless they were asked for. None
      in a state that takes no steps.
  """

  completion: jax.Array
  trace: jax.Array
  forwards: jax.Array
  confidence: jax.Array
  among: Any = None

  @property
  def taken(self) -> jax.Array:
    """Steps that each row has taken, [b] int32.

    A step in which a row commits nothing, because its neighbours are not done,
    does not count: a completion does not depend on the batch it is in.
    """
    return jnp.max(self.trace, -1) + 1


@flax.struct.dataclass
class Steps:
  """Everything that stays the same from step to step.

  Attributes:
    forward: the model at its prompts.
    keys: [b] PRNG keys.
    free: [b] int32, masks of each row at the start.
    sampler: the settings.
    eos_id: the end-of-sequence token; needed unless `sampler.eos` is "free".
    candidates: n of `DecodeState.among`.
  """

  forward: Forward
  keys: jax.Array
  free: jax.Array
  sampler: config.SamplerConfig = flax.struct.field(pytree_node=False)
  eos_id: int | None = flax.struct.field(pytree_node=False)
  candidates: int = flax.struct.field(pytree_node=False)

  @property
  def mask_id(self) -> int:
    """The id of the mask token."""
    mask_id: int = self.forward.model.mask_id
    return mask_id

  def goes_on(
    self, state: DecodeState, start: jax.Array | int | None = None
  ) -> jax.Array:
    """Tells whether any row needs a step, in the block at `start` or at all."""
    masks = self._open(state)
    if start is not None:
      masks = _columns(masks, start, self.sampler.block_length)
    return jnp.any(masks)

  def first(self, state: DecodeState) -> tuple[DecodeState, jax.Array, Any]:
    """Takes a step in the first block with masks, computing whole rows.

    Without `sampler.cache` every step is a first one.

    Returns:
      The next state; the block's first column; a cache for `next`, or None.
    """
    width = self.sampler.block_length
    # One block for the whole batch: hidden states of a static width, at a start
    # that may differ from call to call. Rows that have finished this block
    # wait.
    start = jnp.argmax(jnp.any(self._open(state), 0)) // width * width
    if self.sampler.cache == "none":
      hidden, cache = self.forward.block(state.completion, start, width), None
    else:
      hidden, cache = self.forward.whole_and_cache(state.completion)
      hidden = _columns(hidden, start, width)
    return self._commit(state, hidden, start), start, cache

  def next(
    self, state: DecodeState, start: jax.Array | int, cache: Any, *,
    columns: int,
  ) -> DecodeState:
    """Takes a further step in the block at `start`, using its cache.

    Args:
      state: the state.
      start: the block's first column.
      cache: from this block's `first`.
      columns: how many columns from `start` on are computed anew.
    """
    hidden = self.forward.part(state.completion, start, columns, cache)
    return self._commit(
      state, hidden[:, :self.sampler.block_length], start)

  def fill(self, state: DecodeState) -> DecodeState:
    """Fills all masks from one more forward pass."""
    width = self.sampler.block_length
    hidden = self.forward.block(
      state.completion, 0, state.completion.shape[1])

    def predict_block(
      i: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
      # Step numbers that no step has used, or blocks would share their noise.
      token, _, confidence, among = self._predict(
        _columns(hidden, i * width, width), state.taken + i)
      return token, confidence, among

    # Block by block: logits of the whole canvas would not fit.
    token, confidence, among = jax.tree.map(
      lambda x: x.swapaxes(0, 1).reshape(
        *state.completion.shape, *x.shape[3:]),
      jax.lax.map(predict_block, jnp.arange(self.sampler.gen_length // width)))
    masked = state.completion == self.mask_id
    return state._replace(
      completion=jnp.where(masked, token, state.completion),
      trace=jnp.where(masked, state.taken[:, None], state.trace),
      confidence=jnp.where(masked, confidence, state.confidence),
      among=jnp.where(masked[..., None], among, state.among),
      forwards=state.forwards + 1)

  def _predict(
    self, hidden: jax.Array, index: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns what `predict` does of hidden states, and the candidates."""
    logits = self.forward.logits(hidden)
    return *predict_lib.predict(
      logits, self.keys, index, self.sampler, self.eos_id
    ), predict_lib.candidates(
      predict_lib.allowed(logits, self.sampler, self.eos_id), self.sampler,
      self.candidates)

  def _open(self, state: DecodeState) -> jax.Array:
    """Finds masks [b, t] of the rows that still go on step by step."""
    masks = state.completion == self.mask_id
    left = jnp.sum(masks, -1)
    # 1e-3, because 0.3 * 50 is a little more than 15 in fp32.
    enough = jnp.ceil(self.sampler.fill_after * self.free - 1e-3)
    return masks & ((left > 0) & (self.free - left < enough))[:, None]

  def _commit(
    self, state: DecodeState, hidden: jax.Array, start: jax.Array | int
  ) -> DecodeState:
    """Takes a step in the block at `start`, given its hidden states."""
    masked = _columns(self._open(state), start, self.sampler.block_length)
    token, score, confidence, among = self._predict(hidden, state.taken)
    state = _put(state, token, confidence, among,
                 _chosen(score, masked, self.sampler), start)
    if self.sampler.eos == "stop":
      state = _stop(state, self.mask_id, self.eos_id)
    return state


def _chosen(
  score: jax.Array, masked: jax.Array, sampler: config.SamplerConfig
) -> jax.Array:
  """Selects the predictions [b, w] of a block that are committed now."""
  if sampler.threshold:
    return remasking.FALLBACKS[sampler.fallback](
      score, masked, sampler.threshold)
  if sampler.factor:
    return remasking.by_factor(score, masked, sampler.factor)
  width = sampler.block_length
  blocks = sampler.gen_length // width
  # LLaDA's schedule: `each` tokens a step, the first `extra` steps one more.
  each, extra = divmod(width, sampler.steps // blocks)
  # Which step of the schedule a row is at is inferred from its committed
  # tokens, so that tokens given by the canvas stand for steps already taken.
  committed = jnp.sum(~masked, -1)
  count = each + (committed < extra * (each + 1))
  return remasking.highest(score, masked, count)


def _put(
  state: DecodeState, token: jax.Array, confidence: jax.Array,
  among: jax.Array, chosen: jax.Array, start: jax.Array | int,
) -> DecodeState:
  """Commits the chosen predictions [b, w] of the block at `start`."""
  def put(array: jax.Array, value: jax.Array) -> jax.Array:
    # Only the block is rewritten: a select over the whole canvas would move
    # gen_length / block_length times the bytes.
    here = chosen.reshape(*chosen.shape, *(1,) * (array.ndim - 2))
    new = jnp.where(here, value, _columns(array, start, chosen.shape[1]))
    return jax.lax.dynamic_update_slice_in_dim(
      array, new.astype(array.dtype), start, 1)

  return DecodeState(
    completion=put(state.completion, token),
    trace=put(state.trace, state.taken[:, None]),
    forwards=state.forwards + 1,
    confidence=put(state.confidence, confidence),
    among=put(state.among, among))


def _stop(
  state: DecodeState, mask_id: int, eos_id: int | None
) -> DecodeState:
  """Fills rows whose text has ended with EOS, as part of the last step.

  A text has ended at an EOS with no mask before it: tokens between an EOS and
  an earlier mask may still come before the end.
  """
  assert eos_id is not None
  masks = state.completion == mask_id
  ended = (state.completion == eos_id) & (jnp.cumsum(masks, -1) == 0)
  rest = masks & jnp.any(ended, -1, keepdims=True)
  # Nothing is drawn there, so that `among` stays empty.
  return state._replace(
    completion=jnp.where(rest, eos_id, state.completion),
    trace=jnp.where(rest, state.taken[:, None] - 1, state.trace),
    confidence=jnp.where(rest, 1.0, state.confidence))


def _columns(array: jax.Array, start: jax.Array | int, width: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(array, start, width, 1)
