"""Denoising steps: predict the masked tokens of a block, commit some of them.

Each row is at a block of its own, the first with masks. The loop over steps is
in `denoise`, jitted as one program or step by step.
"""

from typing import Any
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from dlrl import config
from dlrl.sampling import forward as forward_lib
from dlrl.sampling import predict as predict_lib
from dlrl.sampling import remasking


class DecodeState(NamedTuple):
  """Completions and how they came about; a step returns the next one.

  Attributes:
    completion: [b, t] int32; mask tokens until they are committed, none in the
      end. What a model with blocks has not decoded, after the last block of a
      row that ended, is then the end-of-sequence token.
    trace: [b, t] int32, the step that committed each token, or edited it last,
      counted from 0 in every row; -1 where masked, given by the canvas, or
      never decoded.
    forwards: scalar int32, forward passes of the batch so far, whether of whole
      rows or of the part that a cache leaves. Each computes all rows, or as
      many as are decoded at a time.
    confidence: [b, t] fp32, the probability of each token in that step; 0
      where masked or never decoded, 1 where given by the canvas.
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
    does not count: a completion does not depend on the batch it is in. These
    are the forward passes that a row needs by itself; with edits, until its
    last token is written, after which a pass may look for more.
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

  forward: forward_lib.Forward
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

  def of(self, rows: jax.Array) -> "Steps":
    """The steps of some rows [s] int32."""
    forward = self.forward
    return self.replace(  # type: ignore[attr-defined, no-any-return]
      forward=forward.replace(  # type: ignore[attr-defined]
        prompt=forward.prompt[rows],
        prompt_length=forward.prompt_length[rows]),
      keys=self.keys[rows], free=self.free[rows])

  def unfinished(self, state: DecodeState, stop: int) -> jax.Array:
    """Tells which rows [b] need a step in the columns before `stop`."""
    return jnp.any(self._open(state)[:, :stop], 1)

  def in_block(self, state: DecodeState, start: jax.Array) -> jax.Array:
    """Tells whether any row needs a step in its block at `start` [b]."""
    return jnp.any(forward_lib.columns(
      self._open(state), start, self.sampler.block_length))

  def first(
    self, state: DecodeState, stop: int
  ) -> tuple[DecodeState, jax.Array, Any]:
    """Takes a step in each row's first block with masks, computing whole rows.

    Without `sampler.cache` every step is a first one.

    Args:
      state: the state.
      stop: only blocks before this column are looked at.

    Returns:
      The next state; the blocks' first columns [b], 0 in rows without masks
      before `stop`; a cache for `next`, or None.
    """
    width, cache = self.sampler.block_length, None
    start = jnp.argmax(self._open(state)[:, :stop], 1) // width * width
    if self.sampler.cache == "none":
      hidden = self.forward.block(state.completion, start, width)
    else:
      hidden, cache = self.forward.block_and_cache(
        state.completion, start, width)
    return self._commit(state, hidden, start), start, cache

  def next(
    self, state: DecodeState, start: jax.Array, cache: Any, *, columns: int
  ) -> DecodeState:
    """Takes a further step in the blocks at `start`, using their cache.

    Rows that have filled theirs wait.

    Args:
      state: the state.
      start: [b] int, the blocks' first columns.
      cache: from these blocks' `first`.
      columns: how many columns from `start` on are computed anew.
    """
    hidden = self.forward.part(state.completion, start, columns, cache)
    return self._commit(
      state, hidden[:, :self.sampler.block_length], start)

  def fill(self, state: DecodeState) -> DecodeState:
    """Fills all masks from one more forward pass."""
    width = self.sampler.block_length
    hidden = self.forward.block(
      state.completion, jnp.zeros_like(self.free), state.completion.shape[1])

    def predict_block(
      i: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
      # Step numbers that no step has used, or blocks would share their noise.
      token, _, confidence, among = self._predict(
        jax.lax.dynamic_slice_in_dim(hidden, i * width, width, 1),
        state.taken + i)
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
    self, state: DecodeState, hidden: jax.Array, start: jax.Array
  ) -> DecodeState:
    """Takes a step in the blocks at `start`, given their hidden states."""
    masked = forward_lib.columns(
      self._open(state), start, self.sampler.block_length)
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
  among: jax.Array, chosen: jax.Array, start: jax.Array,
) -> DecodeState:
  """Commits the chosen predictions [b, w] of the blocks at `start`."""
  def put(array: jax.Array, value: jax.Array) -> jax.Array:
    # Only the block is rewritten: a select over the whole canvas would move
    # gen_length / block_length times the bytes.
    here = chosen.reshape(*chosen.shape, *(1,) * (array.ndim - 2))
    new = jnp.where(
      here, value, forward_lib.columns(array, start, chosen.shape[1]))
    return jax.vmap(jax.lax.dynamic_update_slice_in_dim, (0, 0, 0, None))(
      array, new.astype(array.dtype), start, 0)

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
