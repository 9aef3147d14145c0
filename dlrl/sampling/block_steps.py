"""Denoising steps of block-diffusion models, each row in a block of its own.

Rows wait in queues and are decoded in slots. A slot is at some block of its
row, and whatever its neighbours do, it takes one step at a time there, then
goes on to the next block, and in the end to the next row of its queue. Clean
blocks see no later ones, so their cached keys and values are exact. Those of
the block that a row has just finished are computed in the same forward pass as
the first step of the next one.

The loops over steps are in `block_decode`.

Source: SDAR (arXiv 2510.06303) and its published `generate.py`; LLaDA2.1 for
the edits.
"""

from typing import Any
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from dlrl import config
from dlrl.models import layers
from dlrl.runtime import mesh as mesh_lib
from dlrl.sampling import edits
from dlrl.sampling import forward
from dlrl.sampling import predict as predict_lib
from dlrl.sampling import remasking
from dlrl.sampling.steps import DecodeState


class Slots(NamedTuple):
  """Rows so far, and what each slot is doing; a step returns the next one.

  There are q queues, one per part of the batch that a device has, of n rows
  and s slots each.

  Attributes:
    canvas: [q, n, w] int32, prompts and completions, from position 0.
    trace: [q, n, w] int32, as in `DecodeState`.
    confidence: [q, n, w] fp32, as in `DecodeState`.
    among: [q, n, w, k] int32, as in `DecodeState`.
    waiting: [q] int32, the first row of the queue that no slot has had.
    row: [q, s] int32, the row in each slot.
    start: [q, s] int32, the first position of the block that it is at.
    taken: [q, s] int32, steps that the row has taken.
    within: [q, s] int32, of these the steps in this block.
    unmasked: [q, s] int32, of these the steps that saw no mask.
    live: [q, s] bool, whether the row goes on.
    lacking: [q, s] bool, whether the cache lacks the block before.
    cache: of [layers, q s, w, g, k], as from `Model.clean_stream`.
    forwards: scalar int32, steps of the batch.
  """

  canvas: jax.Array
  trace: jax.Array
  confidence: jax.Array
  among: jax.Array
  waiting: jax.Array
  row: jax.Array
  start: jax.Array
  taken: jax.Array
  within: jax.Array
  unmasked: jax.Array
  live: jax.Array
  lacking: jax.Array
  cache: layers.Cache
  forwards: jax.Array


@flax.struct.dataclass
class BlockSteps:
  """Everything that stays the same from step to step.

  Attributes:
    model: a `transformer.Model` with blocks.
    params: the model's parameters.
    prompt_length: [q, n] int32.
    lengths: [q, n] int32, tokens of prompt and completion.
    keys: [q, n] PRNG keys.
    prompts: of [layers, q m, p, g, k], keys and values of prompts; each is
      that of n / m rows.
    sampler: the settings.
    eos_ids: the ids that end a row.
    candidates: k of `Slots.among`.
  """

  model: Any = flax.struct.field(pytree_node=False)
  params: Any
  prompt_length: jax.Array
  lengths: jax.Array
  keys: jax.Array
  prompts: layers.Cache
  sampler: config.SamplerConfig = flax.struct.field(pytree_node=False)
  eos_ids: tuple[int, ...] = flax.struct.field(pytree_node=False)
  candidates: int = flax.struct.field(pytree_node=False)

  @property
  def size(self) -> int:
    """Tokens per block."""
    size: int = self.model.cfg.block_length
    return size

  def _queued(self, state: Slots) -> jax.Array:
    """Tells which queues [q, 1] have a row that no slot has had."""
    return (state.waiting < self.lengths.shape[1])[:, None]

  def goes_on(self, state: Slots) -> jax.Array:
    """Tells whether any row is to be decoded still."""
    return jnp.any(state.live) | jnp.any(self._queued(state))

  def filled(self, state: Slots) -> jax.Array:
    """Tells whether some row goes on and no slot can take another row."""
    free = ~state.live & self._queued(state)
    return jnp.any(state.live) & ~jnp.any(free)

  def stored(self, state: Slots) -> jax.Array:
    """Tells whether `filled`, and whether the cache lacks nothing."""
    return self.filled(state) & ~jnp.any(state.live & state.lacking)

  def refill(self, state: Slots) -> Slots:
    """Puts the next rows of each queue into its free slots."""
    turn = state.waiting[:, None] + jnp.cumsum(~state.live, 1) - 1
    new = ~state.live & (turn < self.lengths.shape[1])
    row = jnp.where(new, turn, state.row)
    start = _of(self.prompt_length, row) // self.size * self.size
    return state._replace(
      row=row, start=jnp.where(new, start, state.start),
      taken=jnp.where(new, 0, state.taken),
      within=jnp.where(new, 0, state.within),
      unmasked=jnp.where(new, 0, state.unmasked), live=state.live | new,
      lacking=state.lacking & ~new,
      waiting=state.waiting + jnp.sum(new, 1),
      cache=self._with_prompts(state.cache, row, new))

  def _with_prompts(
    self, cache: layers.Cache, row: jax.Array, new: jax.Array
  ) -> layers.Cache:
    """Copies the prompts of new rows into their slots."""
    queues, size = self.lengths.shape
    each = size // (self.prompts[0].shape[1] // queues)

    def copy(slot: jax.Array, cache: jax.Array, prompts: jax.Array
             ) -> jax.Array:
      shape = cache.shape
      prompts = prompts.reshape(shape[0], queues, -1, *prompts.shape[2:])
      # Slot by slot, because all prompts at once would be another cache.
      found: jax.Array = jax.vmap(
        jax.vmap(lambda x, i: x[i]), (0, None))(
        prompts, row[:, slot] // each)
      found = found[:, :, None]
      cache = cache.reshape(-1, *row.shape, *cache.shape[2:])
      at = (0, 0, slot, 0, 0, 0)
      old = jax.lax.dynamic_slice(cache, at, found.shape)
      chosen = new[:, slot].reshape(-1, 1, 1, 1, 1)
      return jax.lax.dynamic_update_slice(
        cache, jnp.where(chosen, found, old), at).reshape(shape)

    copied: layers.Cache = jax.lax.fori_loop(
      0, row.shape[1], lambda slot, cache: jax.tree.map(
        lambda x, y: copy(slot, x, y), cache, self.prompts), cache)
    return copied

  def step(self, state: Slots, *, store: bool) -> Slots:
    """Takes a step in every slot whose row goes on.

    Args:
      state: the state.
      store: whether to compute what the cache lacks, at twice the columns.
    """
    ids = _columns(state.canvas, state.row, state.start, self.size)
    length, prompt_length = (
      _of(x, state.row)[..., None] for x in (self.lengths, self.prompt_length))
    positions = state.start[..., None] + jnp.arange(self.size)[None, None]
    response = (positions >= prompt_length) & (positions < length)
    open_ = response & state.live[..., None]
    masked = open_ & (ids == self.model.mask_id)
    hidden, cache = self._forward(state, ids, length[..., 0], store=store)
    with jax.named_scope("rollout/unembed"):
      logits = forward.without_mask(
        forward.unembedded(self.model, self.params, hidden),
        self.model.mask_id)
    token, score, confidence = (
      x.reshape(ids.shape) for x in predict_lib.predict_drawn(
        logits, _rows(_of(self.keys, state.row)), _rows(state.taken),
        self.sampler))
    among = predict_lib.candidates(
      logits, self.sampler, self.candidates
    ).reshape(*ids.shape, self.candidates)
    filled = self._filled(score, masked, state.within)
    edited = self._edited(ids, token, confidence, open_ & ~masked)
    chosen = filled | edited
    ids = jnp.where(chosen, token, ids)

    def put(array: jax.Array, value: jax.Array) -> jax.Array:
      value = jnp.where(chosen, value, _columns(
        array, state.row, state.start, self.size))
      return _put(array, state.row, state.start, value.astype(array.dtype))

    unmasked = state.unmasked + ~jnp.any(masked, -1)
    finished = edits.finished(
      masked, filled, edited, unmasked, edits.most_passes(self.sampler))
    ended = jnp.any(
      response & jnp.isin(ids, np.array(self.eos_ids, np.int32)), -1)
    last = state.start + self.size >= length[..., 0]
    live = state.live & ~(finished & (ended | last))
    ahead = live & finished
    return state._replace(
      canvas=put(state.canvas, token),
      trace=put(state.trace, state.taken[..., None]),
      confidence=put(state.confidence, confidence),
      among=jax.vmap(put, -1, -1)(state.among, among),
      start=jnp.where(ahead, state.start + self.size, state.start),
      taken=state.taken + 1, within=jnp.where(ahead, 0, state.within + 1),
      unmasked=jnp.where(ahead, 0, unmasked),
      live=live, lacking=ahead, cache=cache, forwards=state.forwards + 1)

  def _forward(
    self, state: Slots, ids: jax.Array, lengths: jax.Array, *, store: bool
  ) -> tuple[jax.Array, layers.Cache]:
    """Computes hidden states [q s, size, d] of the blocks, and the cache."""
    start = _rows(state.start)
    if not store:
      positions = start[:, None] + jnp.arange(self.size)[None]
      hidden = self.model.noisy_stream(
        self.params, _rows(ids), positions, _rows(lengths), state.cache)
      return hidden, state.cache
    at = jnp.maximum(start - self.size, 0)
    before = _columns(
      state.canvas, state.row, at.reshape(state.row.shape), self.size)
    hidden, new = self.model.next_block(
      self.params, _rows(jnp.concatenate([before, ids], -1)), start,
      _rows(lengths), state.cache)
    # Where the cache has the block it stays, bit for bit: when its neighbours
    # take first steps must not matter to a row.
    at = jnp.where(_rows(state.lacking), at, state.cache[0].shape[2])
    return hidden, forward.stored(state.cache, new, at)

  def _edited(
    self, ids: jax.Array, token: jax.Array, confidence: jax.Array,
    present: jax.Array,
  ) -> jax.Array:
    """Selects the tokens [q, s, size] that are replaced now."""
    if not edits.on(self.sampler):
      return jnp.zeros_like(present)
    return edits.confident(
      ids, token, confidence, present, self.sampler.edit_threshold)

  def _filled(
    self, score: jax.Array, masked: jax.Array, within: jax.Array
  ) -> jax.Array:
    """Selects the masks [q, s, size] that become tokens now."""
    sampler = self.sampler
    blocks = sampler.gen_length // self.size
    each, extra = divmod(self.size, sampler.steps // blocks)
    count = _rows(each + (within < extra))
    score, open_ = _rows(score), _rows(masked)
    if not sampler.threshold:
      chosen = remasking.highest(score, open_, count)
    else:
      chosen = remasking.BOUNDS[sampler.remasking](
        score, open_, sampler.threshold, count)
    return chosen.reshape(masked.shape)

  def result(self, state: Slots) -> DecodeState:
    """Returns completions and how they came about so far.

    In the end, columns that were never decoded get the first of `eos_ids`.
    """
    width = self.sampler.gen_length
    n = self.lengths.shape[1]
    every = jnp.broadcast_to(jnp.arange(n), self.lengths.shape)
    completion, trace, confidence = (
      _columns(x, every, self.prompt_length, width).reshape(-1, width)
      for x in (state.canvas, state.trace, state.confidence))
    if self.eos_ids:
      completion = jnp.where(
        ~self.goes_on(state) & (trace < 0), self.eos_ids[0], completion)
    among = jax.vmap(
      lambda x: _columns(x, every, self.prompt_length, width).reshape(
        -1, width), -1, -1)(state.among)
    return DecodeState(completion, trace, state.forwards, confidence, among)


def begin(
  model: Any, params: Any, prompt: jax.Array, prompt_length: jax.Array,
  keys: jax.Array, sampler: config.SamplerConfig,
  lengths: jax.Array | None, eos_ids: tuple[int, ...], group: int,
  candidates: int = 0,
) -> tuple[BlockSteps, Slots]:
  """Returns the steps and the state before the first row; see `decode`."""
  b, p = prompt.shape
  q = mesh_lib.batch_parts(b)
  n = b // q
  s = min(n, -(-sampler.slots // q)) if sampler.slots else n
  w = -(-(p + sampler.gen_length) // model.cfg.block_length
        ) * model.cfg.block_length
  # No prompt is shared between queues, whose devices differ.
  shared = int(np.gcd(group, n))
  prompts = model.clean_stream(
    params, prompt[::shared], jnp.maximum(prompt_length[::shared], 1))
  prompts = jax.tree.map(
    lambda x: _split(x, 1), prompts)
  prompt = jnp.pad(prompt, ((0, 0), (0, w - p)))
  canvas = jnp.where(
    jnp.arange(w)[None] < prompt_length[:, None], prompt, model.mask_id)
  if lengths is None:
    lengths = prompt_length + sampler.gen_length
  canvas, prompt_length, lengths, keys = (
    _split(x.reshape(q, n, *x.shape[1:]), 0)
    for x in (canvas.astype(jnp.int32), prompt_length, lengths, keys))
  empty = jnp.zeros((q, s), jnp.int32)
  state = Slots(
    canvas=canvas, trace=jnp.full_like(canvas, -1),
    confidence=jnp.zeros(canvas.shape, jnp.float32),
    among=_split(jnp.full((*canvas.shape, candidates), -1, jnp.int32), 0),
    waiting=jnp.zeros(q, jnp.int32), row=empty, start=empty, taken=empty,
    within=empty, unmasked=empty, live=empty > 0, lacking=empty > 0,
    cache=jax.tree.map(lambda x: _split(jnp.zeros(
      (x.shape[0], q * s, w, *x.shape[3:]), x.dtype), 1), prompts),
    forwards=jnp.int32(0))
  return BlockSteps(model, params, prompt_length, lengths, keys, prompts,
                    sampler, eos_ids, candidates), state


def _split(x: jax.Array, axis: int) -> jax.Array:
  """Splits queues or slots, on `axis`, over the devices that have their rows.
  """
  if mesh_lib.batch_parts(x.shape[axis]) == 1:
    return x
  free = jax.sharding.PartitionSpec.UNCONSTRAINED
  return mesh_lib.constrain(x, *(
    mesh_lib.BATCH if i == axis else free for i in range(x.ndim)))


# Rows of a queue are found within it, so that nothing moves between devices.


def _of(x: jax.Array, row: jax.Array) -> jax.Array:
  """Takes x[q, n, ...] at rows [q, s]."""
  found: jax.Array = jax.vmap(lambda x, row: x[row])(x, row)
  return found


def _columns(
  x: jax.Array, row: jax.Array, start: jax.Array, width: int
) -> jax.Array:
  """Takes [q, s, width] of x [q, n, w], at rows and columns [q, s]."""
  def one(x: jax.Array, row: jax.Array, start: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(x, (row, start), (1, width))[0]

  return jax.vmap(jax.vmap(one, (None, 0, 0)))(x, row, start)


def _put(
  x: jax.Array, row: jax.Array, start: jax.Array, value: jax.Array
) -> jax.Array:
  """Writes [q, s, width] where `_columns` takes it."""
  columns = start[..., None] + jnp.arange(value.shape[-1])[None, None]
  new: jax.Array = jax.vmap(lambda x, row, columns, value: x.at[
    row[:, None], columns].set(value))(x, row, columns, value)
  return new


def _rows(x: jax.Array) -> jax.Array:
  """Joins the first two axes, queues and slots."""
  return x.reshape(-1, *x.shape[2:])
